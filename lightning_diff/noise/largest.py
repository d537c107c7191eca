"""A share of every batch at the largest noise level, where sampling in one step starts."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .laws import NoiseLaw, TrainingLaw, as_training_law, cdf


class WithLargest(TrainingLaw):
    """A law of which a share is drawn at the largest noise level, and none above it.

    One step starts at sigma = 80, above which LogNormal(-1.0, 1.4), sCM's law for CIFAR-10, has 6e-5 of its draws. TCM (arXiv
    2410.14895) puts a quarter of its batch at one level exactly. Here the share lies in a narrow band below `sigma`, evenly in
    ln sigma, so that the law has a density, of which weightings and the figures of a recipe are made:

        p(ln sigma) = share / band                      in the band,
                      (1 - share) law(ln sigma) / P     below it, P the law's own mass there.

    A consistency model's tangents vanish at the largest level: a learned weight (`weighting.AdaptiveWeight`) would give the band
    all of the gradient (docs/consistency.md).

    Stratified draws put `share` of every batch into the band, the same places of every batch.

    Args:
        law: of the other draws; one that does not learn.
        share: in (0, 1).
        sigma: the largest level, > 0.
        band: width of the band in ln sigma, > 0.
    """

    def __init__(self, law: NoiseLaw, share: float = 0.25, sigma: float = 80.0, band: float = 0.05):
        if not (0 < share < 1 and sigma > 0 and band > 0):
            raise ValueError(
                f"WithLargest: need share in (0, 1), sigma > 0 and band > 0, got {share}, {sigma} and {band}"
            )
        if as_training_law(law).learns:
            raise ValueError(f"WithLargest: {type(law).__name__} learns where to draw; take one that does not")
        self.law, self.share, self.sigma, self.band = law, share, float(sigma), band
        self.low = self.sigma * math.exp(-band)
        self.below = float(cdf(law, torch.tensor([self.low], dtype=torch.float64)))
        if not self.below > 1e-9:  # of a bisection, which ends a little above 0
            raise ValueError(f"WithLargest: law draws no level below {self.low:.3g}; take a larger sigma")

    @property
    def largest(self) -> float:
        return self.sigma

    def icdf(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        rest = 1 - self.share
        others = self.law.icdf((u / rest * self.below).clamp(max=self.below))
        in_band = self.sigma * (-self.band * (1 - u) / self.share).exp()
        return torch.where(u < rest, others, in_band)

    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        others = self.law.log_prob(sigma) + math.log((1 - self.share) / self.below)
        in_band = torch.where(sigma <= self.sigma, math.log(self.share / self.band), -torch.inf).to(sigma.dtype)
        return torch.where(sigma < self.low, others, in_band)
