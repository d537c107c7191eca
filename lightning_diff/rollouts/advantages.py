"""Advantages of a rollout: from which rewards they are counted, and in what unit."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..objectives.nft import advantages
from ..rewards import Reward, WeightedSum
from .plan import Plan
from .rollout import Rollout

Spread = Literal["global", "group"] | float
Baseline = Literal["kept", "pool"]


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """How rewards become advantages: (reward - baseline) / (spread + eps), clipped where a loss reads them.

    Args:
        spread: the standard deviation of all rewards of the epoch ("global"), or of those of the group, or this number > 0.
            Dividing by a standard deviation keeps amplifying ever smaller differences once the reward saturates, which invites
            reward hacking; a number does not.
        baseline: the mean of the group's kept images, or of its whole pool (see `pool_mean`).
        clip: > 0.
    """

    spread: Spread = "global"
    baseline: Baseline = "kept"
    clip: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.spread, str) and not self.spread > 0:
            raise ValueError(f"spread: must be positive, got {self.spread}")
        if not self.clip > 0:
            raise ValueError(f"clip: must be positive, got {self.clip}")

    def of(self, rollout: Rollout) -> Float64[Tensor, "g m"]:
        """Unclipped, of what was kept; the rollout is the whole epoch's."""
        groups, kept = rollout.reward.shape
        group = torch.arange(groups).repeat_interleave(kept)
        means = None
        if self.baseline == "pool":
            means = pool_mean(rollout.preview, rollout.selected, rollout.reward).repeat_interleave(kept)
        reward = rollout.reward.flatten()
        values: Tensor = advantages(reward, group, spread=self.spread, baseline=means).unflatten(0, (groups, kept))
        return values

    def refuse_meaningless(self, reward: Reward, plan: Plan) -> None:
        """Refuse what has no meaning for this reward or this plan."""
        if isinstance(reward, WeightedSum) and reward.is_standardised:
            instead = "or add the rewards as they are, by rewards.WeightedSum with normalise: none"
            if not isinstance(self.spread, str):
                raise ValueError(
                    f"spread: {self.spread:g} would divide a sum of rewards that are standardised already; take global or group, "
                    f"{instead}"
                )
            if self.baseline == "pool":
                raise ValueError(
                    "baseline: pool does nothing with a sum of rewards that are standardised in each group; take kept, "
                    f"{instead}"
                )
        if self.baseline == "pool" and plan.regenerate is not None:
            raise ValueError(
                "baseline: pool is estimated from what its preview alone has kept; leave out plan.regenerate"
            )


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
