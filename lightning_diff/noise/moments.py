"""Moments of a value in bins of log-SNR: what statistics report, and what measured weights and adaptive noise laws learn from."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


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


class LevelMoments(nn.Module):
    """Sums of 1, v and v^2 per equal bin of log-SNR, each decayed by `beta` whenever a step visits its bin.

    Their ratios need no bias correction, and rare levels forget no faster than common ones. Steps wait in a queue until `flush`,
    which takes them all in at once with the result of taking them in one by one; the queue is part of the saved state. It sums by a
    product with a matrix, not by scattering, so that a GPU repeats it to the last bit. A value that is not finite is left out.

    Args:
        bins: >= 2, over [low, high]; levels outside count in the end bins.
        low, high: in log-SNR.
        beta: in (0, 1); a bin remembers about 1 / (1 - beta) visits.
        smoothing: standard deviation of the kernel over bins, in bins, > 0.
        min_count: samples, over a bin and its neighbours, at which what was measured is trusted in full, > 0.
    """

    sums: Tensor
    kernel: Tensor

    def __init__(self, bins: int, low: float, high: float, beta: float, smoothing: float, min_count: float):
        super().__init__()
        if bins < 2 or not low < high:
            raise ValueError(f"need bins >= 2 and low < high, got {bins}, {low}, {high}")
        if not 0 < beta < 1 or not smoothing > 0 or not min_count > 0:
            raise ValueError(
                f"need 0 < beta < 1, smoothing > 0 and min_count > 0, got {beta}, {smoothing}, {min_count}"
            )
        self.bins, self.low, self.high, self.beta, self.min_count = bins, low, high, beta, min_count
        self.register_buffer("sums", torch.zeros(3, bins, dtype=torch.float64))
        place = torch.arange(bins, dtype=torch.float64)
        kernel = torch.exp(-0.5 * ((place[:, None] - place) / smoothing) ** 2)
        self.register_buffer("kernel", kernel, persistent=False)
        self.queue: list[Tensor] = []  # (2, n) for each step: level, value

    @torch.no_grad()
    def update(self, log_snr: Float[Tensor, " n"], value: Float[Tensor, " n"]) -> None:
        """Queue one optimiser step."""
        step = torch.stack([log_snr, value.to(log_snr)])
        if self.queue and self.queue[0].shape != step.shape:
            self.flush()
        self.queue.append(step)

    @torch.no_grad()
    def flush(self) -> None:
        """Take in what is queued."""
        if not self.queue:
            return
        # A resumed run loads its queue before the module moves to its device, and only buffers move with it.
        log_snr, value = torch.stack([step.to(self.sums.device) for step in self.queue], 1).double()  # (steps, n)
        self.queue.clear()
        finite = value.isfinite()
        value = torch.where(finite, value, 0.0)
        index = bin_index(log_snr.flatten(), self.bins, self.low, self.high).reshape_as(log_snr)
        member = nn.functional.one_hot(index, self.bins).to(value.dtype)
        step = torch.stack([finite.to(value.dtype), value, value**2], 1) @ member  # (steps, 3, bins)
        visited = (step[:, 0] > 0).to(value.dtype)
        later = visited.flip(0).cumsum(0).flip(0) - visited  # visits of the bin after each step
        self.sums = self.sums * self.beta ** visited.sum(0) + (step * (self.beta**later)[:, None]).sum(0)

    @property
    def count(self) -> Float[Tensor, " bins"]:
        """Samples remembered, up to the last flush."""
        return self.sums[0]

    @property
    def mean(self) -> Float[Tensor, " bins"]:
        """Of the value; 0 where nothing was seen."""
        return self.sums[1] / self.sums[0].clamp(min=1e-30)

    @property
    def variance(self) -> Float[Tensor, " bins"]:
        """Of the value; 0 where nothing was seen."""
        return (self.sums[2] / self.sums[0].clamp(min=1e-30) - self.mean**2).clamp(min=0)

    def relative(self, values: Float[Tensor, " bins"], share: Float[Tensor, " bins"]) -> Float[Tensor, " bins"]:
        """ln of the measured values, smoothed over bins, minus its average under `share`; towards 0 where few samples were seen.

        A value of 0 is not known. In the smoothing, bins count alike once they hold `min_count`: were they to count by their
        samples, each would lean towards its more frequent neighbour.
        """
        known = values > 0
        count = torch.where(known, self.count, 0.0)
        kernel = self.kernel * (count / (count + self.min_count))
        smooth = kernel @ torch.where(known, values, 1.0).log() / kernel.sum(1).clamp(min=1e-30)
        trust = (self.kernel @ count / self.min_count).clamp(max=1)
        typical = (share * trust * smooth).sum() / (share * trust).sum().clamp(min=1e-30)
        return trust * (smooth - typical)

    def get_extra_state(self) -> dict[str, list[Tensor]]:
        return {"queue": list(self.queue)}

    def set_extra_state(self, state: dict[str, list[Tensor]]) -> None:
        self.queue = [step.to(self.sums.device) for step in state["queue"]]
