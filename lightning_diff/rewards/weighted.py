"""Several rewards as one."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor, nn

from .protocol import Reward, name_of, needs_label, scored

EPS = 1e-6  # against a spread of 0


class WeightedSum:
    """sum_i weight_i (reward_i - mean_i) / std_i: each standardised for itself, so that no unit of measurement outweighs another.

    Mean and standard deviation are of the images of one call, and nothing is remembered: call it with whole groups, and compare
    sums of one call only. A reward that is equal for all images adds nothing.

    Args:
        rewards: by name.
        weights: by the same names; 1 each by default. Negative ones punish.
        normalise: "label" standardises among the images of a call that have the same label, "batch" among all; "none" adds the raw
            numbers, whose units then count. Rollouts know their groups, not all of an epoch at once, and refuse "batch".
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        weights: Mapping[str, float] | None = None,
        normalise: Literal["label", "batch", "none"] = "label",
    ):
        if not rewards:
            raise ValueError("WeightedSum: needs at least one reward, got none")
        if normalise not in ("label", "batch", "none"):
            raise ValueError(f"WeightedSum: normalise must be label, batch or none, got {normalise!r}")
        unknown = sorted(set(weights or ()) - set(rewards))
        if unknown:
            raise ValueError(
                f"WeightedSum: there is no reward {unknown[0]!r} to be weighted; there are {', '.join(rewards)}"
            )
        self.rewards, self.normalise = dict(rewards), normalise
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in rewards}

    @property
    def name(self) -> str:
        return " + ".join(f"{weight:g} {name}" for name, weight in self.weights.items())

    @property
    def needs_label(self) -> bool:
        return any(needs_label(reward) for reward in self.rewards.values())

    @property
    def is_standardised(self) -> bool:
        return self.normalise != "none"

    def parts(self, images: Float[Tensor, "b *s"], label: Int64[Tensor, " b"]) -> dict[str, Float32[Tensor, " b"]]:
        """Every reward as it is, checked, by name: what to log."""
        return {name: scored(_Named(name, reward), images, label) for name, reward in self.rewards.items()}

    def __call__(self, images: Float[Tensor, "b *s"], label: Int64[Tensor, " b"]) -> Float32[Tensor, " b"]:
        return self.combine(self.parts(images, label), label)

    def combine(self, parts: Mapping[str, Float[Tensor, " b"]], label: Int64[Tensor, " b"]) -> Float32[Tensor, " b"]:
        """The sum of parts that were scored before."""
        total = torch.zeros(len(label), dtype=torch.float64, device=label.device)
        for name, values in parts.items():
            total += self.weights[name] * self._standardised(values.double(), label)
        return total.float()

    def raw(self, parts: Mapping[str, Float[Tensor, " b"]]) -> Float64[Tensor, " b"]:
        """sum_i weight_i reward_i of parts that were scored before, in their own units: what compares between calls."""
        return torch.stack([self.weights[name] * values.double() for name, values in parts.items()]).sum(0)

    def _standardised(self, values: Tensor, label: Tensor) -> Tensor:
        if self.normalise == "none" or not len(values):
            return values
        group = label if self.normalise == "label" else torch.zeros_like(label)
        _, index = group.unique(return_inverse=True)
        count = torch.bincount(index).double()
        mean = (torch.zeros_like(count).index_add_(0, index, values) / count)[index]
        variance = (torch.zeros_like(count).index_add_(0, index, (values - mean).square()) / count)[index]
        return (values - mean) / (variance.sqrt() + EPS)


def as_one(reward: Reward | Sequence[Reward]) -> Reward:
    """Several rewards as a sum in which all count equally."""
    if isinstance(reward, Sequence):
        return WeightedSum({f"{name_of(each)} {i}": each for i, each in enumerate(reward)})
    return reward


def networks(reward: Reward) -> list[nn.Module]:
    """The networks among a reward and its parts."""
    parts = reward.rewards.values() if isinstance(reward, WeightedSum) else ()
    return [each for each in (reward, *parts) if isinstance(each, nn.Module)]


class _Named:
    """A reward under the name that it has in a sum, for its errors."""

    def __init__(self, name: str, reward: Reward):
        self.name, self.reward = name, reward

    def __call__(self, images: Tensor, label: Tensor) -> Tensor:
        return self.reward(images, label)
