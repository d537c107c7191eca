"""What a learner makes of many episodes: returns from later costs, averages that forget the beginning."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

POWER = 6  # weights rise like n^6: the last fifth of a training has four fifths of them, its first half a hundredth


def read_together(values: Mapping[str, Float[Tensor, ""]]) -> dict[str, float]:
    """Numbers of a device's by name, read at once: each reading is a wait for the device."""
    return dict(zip(values, torch.stack([value.double() for value in values.values()]).tolist(), strict=True))


def running(average: Float[Tensor, "..."], new: Float[Tensor, "..."], updates: int) -> Float[Tensor, "..."]:
    """The average after one more value, weights rising like a power of their number, so that it forgets the beginning.

    Args:
        average: before.
        new: the value.
        updates: how many values there are with this one, >= 1.
    """
    return average + (new - average) * min(1.0, (POWER + 1) / (updates + POWER))


def discounted(values: Float[Tensor, "b k"], factor: float) -> Float[Tensor, "b k"]:
    """At each k the sum over j >= k of factor^(j - k) values_j."""
    sums, total = torch.empty_like(values), torch.zeros_like(values[:, 0])
    for k in reversed(range(values.shape[1])):
        total = values[:, k] + factor * total
        sums[:, k] = total
    return sums


def share_left(y: Float[Tensor, "..."], remaining: Tensor | int) -> Float[Tensor, "..."]:
    """1 - sigmoid(y - ln(n - 1)) = (n - 1) / (n - 1 + e^y): 0 at the last step, (n - 1) / n at y = 0."""
    n = remaining - 1 if isinstance(remaining, Tensor) else y.new_full((), remaining - 1)
    return n / (n + y.exp())
