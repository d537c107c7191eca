"""From a rollout to training examples: every image that was kept, at some of the noise levels that it was drawn through."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..foundation import rng
from .advantages import Advantages
from .loss import RewardLoss
from .plan import Plan
from .rollout import Rollout


@dataclass(frozen=True)
class TrainingSet:
    """What an epoch trains on.

    Args:
        rollout: of the epoch, from all processes.
        advantage: of each image, group after group.
        order: image and noise level of each example, in the order of training.
        sigmas: the levels that images were drawn through, the last one 0.
    """

    rollout: Rollout
    advantage: Float64[Tensor, " images"]
    order: Int64[Tensor, "examples 2"]
    sigmas: Float64[Tensor, " nodes"]


def training_set(
    rollout: Rollout, plan: Plan, loss: RewardLoss, advantages: Advantages, *, seed: int, epoch: int
) -> TrainingSet:
    """Every image at the first few of its shuffled levels, all shuffled: a function of (seed, epoch) and the rollout."""
    images, levels = plan.images, loss.trained_levels(plan)
    numbers, usable = range(epoch * images, (epoch + 1) * images), loss.usable_levels(plan)
    level = np.stack([rng.permutation(seed, "image levels", number, usable)[:levels] for number in numbers])
    order = rng.permutation(seed, "examples", epoch, images * levels)
    pairs = torch.from_numpy(np.stack([order // levels, level.reshape(-1)[order]], 1))
    return TrainingSet(rollout, advantages.of(rollout).flatten(), pairs, plan.sampling(plan.steps).sigmas)


def examples(source: TrainingSet, position: Int64[Tensor, " b"], noise: Float[Tensor, "b *s"]) -> dict[str, Tensor]:
    """The training examples at these positions of the stream.

    Returns:
        "x", at noise level "sigma", "advantage", "position", with labels "label"; "x0", or of a chain "x_next", "sigma_next"
        and "log_prob".
    """
    rollout, sigmas = source.rollout, source.sigmas
    image, level = source.order[position % len(source.order)].unbind(1)
    kept = rollout.reward.shape[1]
    group, member = image // kept, image % kept
    batch = {"position": position, "sigma": sigmas[level], "advantage": source.advantage[image]}
    if rollout.label is not None:
        batch["label"] = rollout.label[group]
    if rollout.states is not None and rollout.log_prob is not None:
        return batch | {
            "x": rollout.states[group, member, level],
            "x_next": rollout.states[group, member, level + 1],
            "sigma_next": sigmas[level + 1],
            "log_prob": rollout.log_prob[group, member, level],
        }
    x0 = rollout.images[group, member]
    column = sigmas[level].to(x0.dtype).reshape(-1, *[1] * (x0.ndim - 1))
    return batch | {"x0": x0, "x": x0 + column * noise}
