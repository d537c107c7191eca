"""Moments of the loss at each noise level, as a torchmetrics Metric: synced, resettable, checkpointed."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from .noise.moments import NoiseLevelMoments, bin_index, merge, moments, moments_by_bin

__all__ = ["NoiseLevelMoments", "NoiseLevelStatistics", "bin_index", "merge", "moments", "moments_by_bin"]


class NoiseLevelStatistics(Metric):
    """Count, mean and variance of a per-sample loss in equal bins of log-SNR.

    Batches and processes are merged with the pairwise update of Chan, Golub & LeVeque (1979), which stays exact where the
    textbook E[x^2] - E[x]^2 cancels.

    Args:
        bins: number of bins, >= 1.
        low, high: the range of log_snr covered; samples outside count in the end bins.
    """

    full_state_update = False
    is_differentiable = False
    count: Tensor
    mean: Tensor
    m2: Tensor

    def __init__(self, bins: int = 30, low: float = -10.0, high: float = 10.0):
        super().__init__()
        if bins < 1 or not low < high:
            raise ValueError(f"NoiseLevelStatistics: need bins >= 1 and low < high, got {bins}, {low}, {high}")
        self.bins, self.low, self.high = bins, low, high
        for name in ("count", "mean", "m2"):
            # dist_reduce_fx=None: after a sync the states are stacked over processes, and compute merges them.
            self.add_state(name, torch.zeros(bins, dtype=torch.float64), dist_reduce_fx=None, persistent=True)

    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> None:
        """Add samples; non-finite losses are left out (`FiniteGuard` reports them)."""
        loss = loss.detach().double()
        finite = loss.isfinite()
        index = bin_index(log_snr.detach(), self.bins, self.low, self.high)
        count, mean, m2 = moments_by_bin(index, torch.where(finite, loss, 0.0), finite.double(), self.bins)
        self.count, self.mean, self.m2 = merge((self.count, self.mean, self.m2), (count, mean, m2))

    def compute(self) -> NoiseLevelMoments:
        return moments(*self.state())

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        """(count, mean, sum of squared deviations) per bin, merged over processes after a sync."""
        state = (self.count, self.mean, self.m2)
        if self.count.ndim == 1:
            return state
        merged = (self.count[0], self.mean[0], self.m2[0])
        for rank in range(1, self.count.shape[0]):
            merged = merge(merged, tuple(part[rank] for part in state))
        return merged
