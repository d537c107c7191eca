"""Advantages of a rollout: from which rewards they are counted, and in what unit."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..objectives.nft import advantages
from ..rewards import Reward, WeightedSum
from .plan import Plan
from .rollout import Rollout

Spread = Literal["global", "group"] | float
Baseline = Literal["kept", "pool"]


def rollout_advantages(
    rollout: Rollout, spread: Spread = "global", baseline: Baseline = "kept"
) -> Float[Tensor, "g m"]:
    """(reward - baseline) / (spread + eps) of what is kept.

    Args:
        rollout: of the whole epoch.
        spread: see `objectives.nft.advantages`.
        baseline: the mean of the group's kept images, or of its whole pool, see `pool_mean`.
    """
    groups, kept = rollout.reward.shape
    group = torch.arange(groups).repeat_interleave(kept)
    means = None
    if baseline == "pool":
        means = pool_mean(rollout.preview, rollout.selected, rollout.reward).repeat_interleave(kept)
    return advantages(rollout.reward.flatten(), group, spread=spread, baseline=means).unflatten(0, (groups, kept))


def pool_mean(
    preview: Float[Tensor, "g n"], selected: Int64[Tensor, "g m"], reward: Float[Tensor, "g m"]
) -> Float[Tensor, " g"]:
    """Mean final reward of each group's whole pool, of which only some was drawn in full: the regression estimate.

    Previews lie off the final rewards, so that their mean is no mean of these. Nor does it become one by adding what final rewards
    and previews differ by among the kept: who is kept for a high preview was flattered by it, on average. But selection by the
    preview leaves the expected reward at each preview as it was. So the final rewards are regressed on the previews, with an
    intercept for each group and one slope for all, and read off at the pool's mean preview. Without previews the slope is 1, and
    this is the pool's mean.

    Args:
        preview: scores of the pools, by which some were selected.
        selected: places of what was kept.
        reward: final rewards of these.
    """
    kept = preview.gather(1, selected)
    x, y = kept - kept.mean(1, keepdim=True), reward - reward.mean(1, keepdim=True)
    spread = x.square().sum()
    slope = torch.where(spread > 0, (x * y).sum() / spread, 0.0)
    return reward.mean(1) + slope * (preview.mean(1) - kept.mean(1))


def refuse_meaningless(reward: Reward, plan: Plan, spread: Spread, baseline: Baseline) -> None:
    """Refuse what has no meaning for this reward or this plan."""
    if not isinstance(spread, str) and not spread > 0:
        raise ValueError(f"spread: must be positive, got {spread}")
    if isinstance(reward, WeightedSum) and reward.is_standardised:
        instead = "or add the rewards as they are, by rewards.WeightedSum with normalise: none"
        if not isinstance(spread, str):
            raise ValueError(
                f"spread: {spread:g} would divide a sum of rewards that are standardised already; take global or group, {instead}"
            )
        if baseline == "pool":
            raise ValueError(
                f"baseline: pool does nothing with a sum of rewards that are standardised in each group; take kept, {instead}"
            )
    if baseline == "pool" and plan.regenerate is not None:
        raise ValueError("baseline: pool is estimated from what its preview alone has kept; leave out plan.regenerate")
