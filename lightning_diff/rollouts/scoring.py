"""Scores of images that were drawn in groups: as they are trained on, and in the reward's own units."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..autoencoders import Autoencoder, as_images
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
    """Refuse a reward that cannot score groups one by one, or that depends on the class where the model has none."""
    if needs_label(reward) and not has_classes:
        raise ValueError(
            f"reward: {name_of(reward)} depends on the class, and the model has none; take one that depends on the image alone"
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
    autoencoder: Autoencoder | None = None,
) -> Scores:
    """Rewards in float64; a sum of several is formed in each group for itself.

    Args:
        reward, images, label, batch, device, autoencoder: see `score_parts`; images are group after group,
            labels 0 where there are none.
        group: images of one group.
    """
    refuse_unfit(reward, label is not None)
    label = torch.zeros(len(images), dtype=torch.int64) if label is None else label
    parts = score_parts(reward, images, label, batch, device, autoencoder)
    if not isinstance(reward, WeightedSum):
        return Scores(parts[""], None)
    score = reward.combine(parts, torch.arange(len(images)) // group).double()
    return Scores(score, reward.raw(parts) if reward.is_standardised else None)


def score_parts(
    reward: Reward,
    images: Float[Tensor, "n *s"],
    label: Int64[Tensor, " n"],
    batch: int,
    device: torch.device | str | None,
    autoencoder: Autoencoder | None = None,
) -> dict[str, Float64[Tensor, " n"]]:
    """Rewards on the CPU: of a `WeightedSum` those of its parts by name, and of any other reward its own, under "".

    Args:
        reward: called with the images clipped.
        images: neither clipped nor rounded; with an autoencoder, latents, which it decodes.
        label: their classes.
        batch: images at a time.
        device: where images are decoded and the reward is computed.
        autoencoder: of a model of latents.
    """
    found: dict[str, list[Tensor]] = {}
    for some, classes in zip(images.split(batch), label.split(batch), strict=True):
        decoded = as_images(some.to(device), autoencoder)
        inputs = decoded.clamp(-1, 1), classes.to(device)
        parts = reward.parts(*inputs) if isinstance(reward, WeightedSum) else {"": scored(reward, *inputs)}
        for name, values in parts.items():
            found.setdefault(name, []).append(values.to("cpu", torch.float64))
    return {name: torch.cat(values) for name, values in found.items()}
