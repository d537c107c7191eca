"""Loss weights over log-SNR. Each multiplies the unweighted F-space loss of a sample.

A weighting is a module called as `weighting(log_snr (B,), loss (B,)) -> (B,)`: positive weights, no gradient. One that learns
from the run also has

    prepare(levels)            log-SNR at equally likely draws of the noise law, once before training
    update(log_snr, loss)      the unweighted losses of one whole optimiser step, over all devices

so that neither the number of processes nor accumulation changes what it learns.

EDM's loss is weight 1 here, because its lambda(sigma) = 1 / c_out^2 is what turns |D - x0|^2 into the F-space loss.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .statistics import bin_index


class Uniform(nn.Module):
    """Weight 1: EDM's loss (arXiv 2206.00364, eq. 8)."""

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return torch.ones_like(loss)


class MeasuredVariance(nn.Module):
    """Weights driven by the variance of the loss measured at each noise level: w ~ variance^(-gamma/2), mean one.

    Sun & Shi (arXiv 2603.10391) motivate weights by the loss variance per noise level; their released code multiplies by a
    fixed bell. This is the controller itself. The moments of the unweighted loss are kept in equal bins of log-SNR, as sums
    that decay by `beta` each time their bin is visited, so that their ratios need no bias correction and rare levels forget
    no faster than common ones. Log variances are smoothed over neighbouring bins, weighted by how much was seen; a bin with
    few samples shrinks towards weight 1. Between bin centres, log weights are interpolated.

    gamma = 0 is EDM; gamma = 1 gives the weighted loss the same standard deviation at every level.

    Args:
        bins: bins of log-SNR over [low, high].
        gamma: exponent in [0, 1] on the standard deviation.
        beta: decay of the sums at each visit, in (0, 1).
        smoothing: standard deviation of the kernel over bins, in bins, > 0.
        min_count: samples at which a bin is trusted by half.
        clip: weights stay within [1 / clip, clip] before they are scaled to mean one; > 1.
        warmup: images over which gamma rises from 0.
        refresh: optimiser steps between updates of the weights; the moments are updated at every step.
        low, high: range of log_snr covered; levels outside get the weight of the nearest end.
    """

    def __init__(
        self,
        bins: int = 40,
        gamma: float = 0.5,
        beta: float = 0.99,
        smoothing: float = 1.0,
        min_count: float = 32.0,
        clip: float = 4.0,
        warmup: int = 20_000,
        refresh: int = 10,
        low: float = -10.0,
        high: float = 10.0,
    ):
        super().__init__()
        if bins < 2 or not low < high:
            raise ValueError(f"MeasuredVariance: need bins >= 2 and low < high, got {bins}, {low}, {high}")
        if not 0 <= gamma <= 1:
            raise ValueError(f"MeasuredVariance: gamma must lie in [0, 1], got {gamma}")
        if not 0 < beta < 1 or not smoothing > 0 or not clip > 1 or refresh < 1:
            raise ValueError("MeasuredVariance: need 0 < beta < 1, smoothing > 0, clip > 1 and refresh >= 1")
        self.bins, self.gamma, self.beta, self.min_count = bins, gamma, beta, min_count
        self.clip, self.warmup, self.refresh, self.low, self.high = clip, warmup, refresh, low, high
        self.count: Tensor
        self.first: Tensor
        self.second: Tensor
        for name in ("count", "first", "second"):  # decayed sums of 1, loss and loss^2 per bin
            self.register_buffer(name, torch.zeros(bins, dtype=torch.float64))
        self.log_weight: Tensor
        self.register_buffer("log_weight", torch.zeros(bins, dtype=torch.float64))
        self.images, self.updates = 0, 0  # plain numbers: reading a tensor's value would stall a GPU at every step
        offset = torch.arange(bins, dtype=torch.float64)
        kernel = torch.exp(-0.5 * ((offset[:, None] - offset) / smoothing) ** 2)
        self.kernel: Tensor
        self.levels: Tensor
        self.register_buffer("kernel", kernel, persistent=False)
        self.register_buffer("levels", torch.linspace(low, high, 4096, dtype=torch.float64), persistent=False)

    def prepare(self, levels: Float[Tensor, " n"]) -> None:
        """Levels (log-SNR) at equally likely draws of the noise law, over which the weights average to one."""
        self.levels = levels.to(self.kernel)

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return self._at(log_snr).to(loss.dtype)

    @torch.no_grad()
    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> None:
        """Take in the unweighted losses of one optimiser step, over all devices."""
        index = bin_index(log_snr, self.bins, self.low, self.high)
        loss = loss.double()
        visits = torch.zeros_like(self.count).index_add(0, index, torch.ones_like(loss))
        decay = torch.where(visits > 0, self.beta, 1.0)
        self.count.mul_(decay).add_(visits)
        self.first.mul_(decay).index_add_(0, index, loss)
        self.second.mul_(decay).index_add_(0, index, loss**2)
        self.images += loss.numel()
        self.updates += 1
        if self.updates % self.refresh == 0:
            self._refresh()

    def get_extra_state(self) -> dict[str, int]:
        return {"images": self.images, "updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.images, self.updates = state["images"], state["updates"]

    def variance(self) -> Float[Tensor, " bins"]:
        """Measured variance of the unweighted loss per bin; zero where nothing was seen."""
        count = self.count.clamp(min=1e-30)
        return (self.second / count - (self.first / count) ** 2).clamp(min=0)

    def _refresh(self) -> None:
        variance = self.variance()
        trust = self.kernel @ torch.where(variance > 0, self.count, 0.0)
        log_variance = (
            self.kernel @ (self.count * variance.clamp(min=1e-30).log() * (variance > 0)) / trust.clamp(min=1e-30)
        )
        typical = (self.count * log_variance).sum() / self.count.sum().clamp(min=1e-30)
        shrink = trust / (trust + self.min_count)
        gamma = self.gamma * min(self.images / self.warmup, 1.0) if self.warmup else self.gamma
        limit = math.log(self.clip)
        self.log_weight = (-0.5 * gamma * shrink * (log_variance - typical)).clamp(-limit, limit)
        self.log_weight = self.log_weight - self._at(self.levels).mean().log()

    def _at(self, log_snr: Tensor) -> Tensor:
        """Weights at any level: log weights interpolated between bin centres, constant beyond the ends."""
        place = ((log_snr.double() - self.low) * (self.bins / (self.high - self.low)) - 0.5).clamp(0, self.bins - 1)
        left = place.long().clamp(max=self.bins - 2)
        return torch.lerp(self.log_weight[left], self.log_weight[left + 1], place - left).exp()
