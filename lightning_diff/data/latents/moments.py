"""Mean and variance of what an encoder gives, by channel: from them follows the standard deviation for any normalisation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

State = Sequence[Any]  # sums of z and of its square by channel, and of how many values


class ChannelMoments:
    """Mean and variance by channel of z = mean + std * noise, over all places and images.

    Args:
        channels: how many.
    """

    def __init__(self, channels: int):
        self._sums, self._count = torch.zeros(2, channels, dtype=torch.float64), 0

    def update(self, mean: Float[Tensor, "b c h w"], std: Float[Tensor, "b c h w"] | None) -> None:
        z = mean.double()
        square = z**2 if std is None else z**2 + std.double() ** 2
        self._sums += torch.stack([z.sum((0, 2, 3)), square.sum((0, 2, 3))])
        self._count += len(z) * z[0, 0].numel()

    def state(self) -> State:
        """What `merge` takes, in JSON without loss."""
        return self._sums.tolist(), self._count

    def merge(self, state: State) -> None:
        """Take in what another one has seen."""
        sums, count = state
        self._sums += torch.tensor(sums, dtype=torch.float64)
        self._count += count

    @property
    def mean(self) -> list[float]:
        return (self._sums[0] / self._count).tolist()

    @property
    def variance(self) -> list[float]:
        return (self._sums[1] / self._count - (self._sums[0] / self._count) ** 2).clamp(min=0).tolist()


def pooled(
    means: Sequence[Sequence[float]], variances: Sequence[Sequence[float]], values: Sequence[int]
) -> tuple[list[float], list[float]]:
    """Mean and variance by channel of several sets together.

    Args:
        means, variances: of each set, by channel.
        values: of each set, in one channel.
    """
    mean, variance, share = np.array(means), np.array(variances), np.array(values)[:, None] / sum(values)
    whole = (share * mean).sum(0)
    return whole.tolist(), ((share * (variance + mean**2)).sum(0) - whole**2).clip(min=0).tolist()
