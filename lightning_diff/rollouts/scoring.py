"""Scores of images that were drawn in groups: as they are trained on, and in the reward's own units."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ..rewards import Reward, WeightedSum, name_of, needs_label, scored


class Scores(NamedTuple):
    """Of n images.

    Args:
        score: what images are selected and trained by.
        raw: weighted sum of the parts in their own units, where `score` is of standardised parts; None where they are the same.
    """

    score: Float64[Tensor, " n"]
    raw: Float64[Tensor, " n"] | None


def refuse_unfit(reward: Reward, has_classes: bool) -> None:
    """Refuse a reward that cannot score groups one by one, or depends on a class that nobody asks for."""
    if needs_label(reward) and not has_classes:
        raise ValueError(
            f"reward: {name_of(reward)} depends on the class that is asked for, and the model has none; take one that looks at the "
            "image alone"
        )
    if isinstance(reward, WeightedSum) and reward.normalise == "batch":
        raise ValueError(
            "reward: a WeightedSum with normalise: batch would depend on which groups are drawn together; take label, which "
            "standardises in each group, or none"
        )


def score_groups(
    reward: Reward,
    images: Tensor,
    label: Int64[Tensor, " n"] | None,
    group: int,
    batch: int,
    device: torch.device | str | None,
) -> Scores:
    """Rewards in float64; a sum of several is formed in each group for itself.

    Args:
        reward: is shown the images clipped, and label 0 where there are none.
        images: (n, ...), group after group.
        label: what was asked for.
        group: images of one group.
        batch: images at a time.
        device: where the reward is computed.
    """
    refuse_unfit(reward, label is not None)
    label = torch.zeros(len(images), dtype=torch.int64) if label is None else label
    several = reward if isinstance(reward, WeightedSum) else None
    found = []
    for some, asked in zip(images.split(batch), label.split(batch), strict=True):
        shown = some.clamp(-1, 1).to(device), asked.to(device)
        values = {"": scored(reward, *shown)} if several is None else several.parts(*shown)
        found.append({name: value.to("cpu", torch.float64) for name, value in values.items()})
    parts = {name: torch.cat([each[name] for each in found]) for name in found[0]}
    if several is None:
        return Scores(parts[""], None)
    score = several.combine(parts, torch.arange(len(images)) // group).double()
    return Scores(score, several.raw(parts) if several.is_standardised else None)
