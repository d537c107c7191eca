"""The loss that trains on a rollout: its name and options, and at how many of the rollout's noise levels it is taken."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from ..objectives.by_name import PostTrainingLoss, by_name
from ..objectives.nft import optimality
from .plan import Plan


@dataclass(frozen=True, kw_only=True)
class RewardLoss:
    """Which loss trains on the images that were kept, and at which noise levels. The defaults are Sol-RL's.

    Args:
        name: "nft" (DiffusionNFT), "advantage_weighted" (AWM) or "policy_gradient" (DDPO and Flow-GRPO; what is kept is drawn
            with the stochastic sampler, whose noise previews do not have: the larger `eta`, the less they know).
        options: further arguments of the loss: beta, kl (see `objectives`).
        levels: noise levels trained for each image; None: six tenths of those that it was drawn through, Sol-RL's share.
        eta: noise of the stochastic sampler, in (0, 1]; for the policy gradient alone.
    """

    name: Literal["nft", "advantage_weighted", "policy_gradient"] = "nft"
    options: Mapping[str, float | str] | None = None
    levels: int | None = None
    eta: float = 1.0

    def __post_init__(self) -> None:
        by_name(self.name, self.options or {})  # refuses unknown options
        if self.is_chain and not 0 < self.eta <= 1:
            raise ValueError(f"loss: eta must lie in (0, 1], got {self.eta}")

    @property
    def is_chain(self) -> bool:
        """Whether it trains on the steps of a stochastic sampler, and not on images with fresh noise."""
        return self.name == "policy_gradient"

    @property
    def kl(self) -> float:
        """Factor of the distance to the reference."""
        return self._named[1]

    @property
    def evaluations(self) -> int:
        """Of networks, for one example: forwards, backwards (as two), and those of the old policy and the reference."""
        return 3 + (not self.is_chain) + bool(self.kl)

    def usable_levels(self, plan: Plan) -> int:
        """Noise levels of a rollout at which there is a loss: the last step of a chain has no density."""
        return plan.steps - self.is_chain

    def trained_levels(self, plan: Plan) -> int:
        """Noise levels at which each image is trained on. ValueError if a plan has not as many."""
        most = self.usable_levels(plan)
        if most < 1:
            raise ValueError("loss: the policy gradient needs a plan of at least two steps")
        levels = -(-6 * most // 10) if self.levels is None else self.levels
        if not 1 <= levels <= most:
            raise ValueError(f"loss: levels must lie in 1..{most}, got {levels}")
        return levels

    def __call__(
        self,
        batch: Mapping[str, Tensor],
        x_hat: Tensor,
        x_hat_old: Tensor | None,
        x_hat_ref: Tensor | None,
        advantage_clip: float,
    ) -> PostTrainingLoss:
        """The loss of a batch of `examples.examples`.

        Args:
            batch: examples.
            x_hat, x_hat_old, x_hat_ref: (B, ...) estimates of x0 by theta, by theta_old (not for a chain) and by the reference
                (not without `kl`).
            advantage_clip: > 0.
        """
        loss, sigma, advantage = self._named[0], batch["sigma"], batch["advantage"]
        if self.is_chain:
            return loss(
                batch["x"], batch["x_next"], x_hat, x_hat_ref, sigma, batch["sigma_next"], batch["log_prob"], advantage,
                eta=self.eta, advantage_clip=advantage_clip,
            )  # fmt: skip
        target = optimality(advantage, advantage_clip) if self.name == "nft" else advantage
        return loss(batch["x0"], x_hat, x_hat_old, x_hat_ref, sigma, target, advantage_clip=advantage_clip)

    @cached_property
    def _named(self) -> tuple[Callable[..., PostTrainingLoss], float]:
        return by_name(self.name, self.options or {})
