"""Moments of the loss at each noise level, as a torchmetrics Metric: synced, resettable, checkpointed."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric


class NoiseLevelMoments(NamedTuple):
    """One row per log-SNR bin; what an empty bin cannot know is NaN."""

    count: Float[Tensor, " bins"]  # type: ignore[assignment]  # samples; tuple.count is not wanted here
    mean: Float[Tensor, " bins"]  # of the loss
    variance: Float[Tensor, " bins"]  # of the loss, with n - 1 in the denominator

    @property
    def standard_error(self) -> Float[Tensor, " bins"]:
        """Of the mean: sqrt(variance / count)."""
        return (self.variance / self.count).sqrt()

    @property
    def coefficient_of_variation(self) -> Float[Tensor, " bins"]:
        """Standard deviation over mean: the spread once the loss's own scale is taken out."""
        return self.variance.sqrt() / self.mean


def bin_index(log_snr: Float[Tensor, " n"], bins: int, low: float, high: float) -> Int64[Tensor, " n"]:
    """Which of `bins` equal bins of [low, high] each level falls into; levels outside fall into the end bins."""
    return ((log_snr - low) * (bins / (high - low))).long().clamp(0, bins - 1)


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


def moments(
    count: Float[Tensor, " bins"], mean: Float[Tensor, " bins"], m2: Float[Tensor, " bins"]
) -> NoiseLevelMoments:
    """What is known of each bin from its count, mean and sum of squared deviations."""
    nan = torch.full_like(mean, torch.nan)
    variance = torch.where(count > 1, m2 / (count - 1).clamp(min=1), nan)
    return NoiseLevelMoments(count, torch.where(count > 0, mean, nan), variance)


def moments_by_bin(
    index: Int64[Tensor, " n"], value: Float[Tensor, " n"], weight: Float[Tensor, " n"], bins: int
) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"], Float[Tensor, " bins"]]:
    """Weighted (count, mean, sum of squared deviations) of `value` in each bin; zero where nothing fell."""
    zeros = torch.zeros(bins, dtype=value.dtype, device=value.device)
    count = zeros.index_add(0, index, weight)
    mean = zeros.index_add(0, index, weight * value) / count.clamp(min=1e-30)
    m2 = zeros.index_add(0, index, weight * (value - mean[index]) ** 2)
    return count, mean, m2


def merge(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """(count, mean, m2) of two disjoint sets of samples together (Chan, Golub & LeVeque 1979, eq. 2.1)."""
    (n_a, mean_a, m2_a), (n_b, mean_b, m2_b) = a, b
    n = n_a + n_b
    share = n_b / n.clamp(min=1e-30)
    delta = mean_b - mean_a
    return n, mean_a + delta * share, m2_a + m2_b + delta**2 * n_a * share
