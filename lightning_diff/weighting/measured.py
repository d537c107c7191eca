"""Weights driven by what the loss was measured to do."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..foundation.lengths import refuse_parts
from ..noise.moments import LevelMoments
from .base import Weighting


class LossZScore(Weighting):
    """1 + alpha (loss - mean) / std: a reading of Sun & Shi (arXiv 2603.10391, the repository's description).

    It raises hard samples, the opposite of their bell. Published over the batch. Under accumulation the batch's statistics are
    not known until its last backward pass, so in training they come from the steps before, as bias-corrected running moments of
    whole global batches, in which samples count by their importance; the first step has weights 1. Without `prepare` the batch
    given is the whole one.

    Args:
        alpha: >= 0.
        clip: z-scores stay within [-clip, clip]; alpha * clip < 1 keeps weights positive.
        beta: decay of the moments at each step, in [0, 1); 0 takes the step before alone.
    """

    def __init__(self, alpha: int | float = 0.1, clip: float = 5.0, beta: float = 0.9):
        super().__init__()
        if not 0 <= alpha * clip < 1 or not clip > 0:
            raise ValueError(f"LossZScore: need clip > 0 and 0 <= alpha * clip < 1, got {alpha} and {clip}")
        if not 0 <= beta < 1:
            raise ValueError(f"LossZScore: beta must lie in [0, 1), got {beta}")
        self.alpha, self.clip, self.beta = alpha, clip, beta
        self.sums: Tensor
        self.register_buffer("sums", torch.zeros(3, dtype=torch.float64))  # decayed sums of 1, loss and loss^2
        self.is_training_run = False

    def prepare(self, levels: Float[Tensor, " n"]) -> None:
        self.is_training_run = True

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        count, first, second = self.sums if self.is_training_run else _sums(loss.detach(), torch.ones_like(loss))
        mean = first / count.clamp(min=1e-30)
        # With n - 1 below, as torch.std has it. Where nothing is known, an infinite std makes every z-score 0.
        variance = (second / count.clamp(min=1e-30) - mean**2).clamp(min=0) * count / (count - 1).clamp(min=1e-30)
        std = torch.where(variance > 0, variance.sqrt(), torch.inf)
        z: Tensor = ((loss.detach() - mean) / std).clamp(-self.clip, self.clip)
        return (1 + self.alpha * z).to(loss.dtype)

    @torch.no_grad()
    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> None:
        self.update_from(log_snr, loss, torch.ones_like(loss))

    @torch.no_grad()
    def update_from(
        self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"], importance: Float[Tensor, " n"]
    ) -> None:
        self.sums.mul_(self.beta).add_(_sums(loss, importance))


class MeasuredVariance(Weighting):
    """Weights driven by the variance of the loss measured at each noise level: w ~ variance^(-gamma/2), mean one.

    Sun & Shi (arXiv 2603.10391) motivate weights by the loss variance per noise level; their released code multiplies by a
    fixed bell. This is the controller itself. The moments of the unweighted loss are kept in equal bins of log-SNR, see
    `LevelMoments`; log variances are smoothed over neighbouring bins; a bin with few samples shrinks towards weight 1. Between bin
    centres weights are interpolated.

    gamma = 0 is EDM; gamma = 1 gives the weighted loss the same standard deviation at every level; gamma = 2 divides by the
    variance, as weighted least squares does. Weights times importance average to one over the law's own draws, whatever it learns:
    under the base law where importance carries draws back to it, else under the law as it has become.

    Args:
        bins: bins of log-SNR over [low, high].
        gamma: exponent in [0, 2] on the standard deviation.
        beta: decay of the sums at each visit of a bin, in (0, 1).
        smoothing: standard deviation of the kernel over bins, in bins, > 0.
        min_count: samples, over a bin and its neighbours, at which what was measured is trusted in full.
        clip: weights stay within [1 / clip, clip] before they are scaled to mean one; > 1.
        warmup: images over which gamma rises from 0; in a recipe, a number below 1 is a share of the run.
        refresh: optimiser steps between updates of the weights.
        low, high: range of log_snr covered; levels outside get the weight of the nearest end.
    """

    OF_RUN: ClassVar[tuple[str, ...]] = ("warmup",)

    def __init__(
        self,
        bins: int = 40,
        gamma: int | float = 0.5,
        beta: float = 0.99,
        smoothing: float = 1.0,
        min_count: float = 32.0,
        clip: float = 4.0,
        warmup: int | float = 20_000,
        refresh: int = 10,
        low: float = -10.0,
        high: float = 10.0,
    ):
        super().__init__()
        if not 0 <= gamma <= 2:
            raise ValueError(f"MeasuredVariance: gamma must lie in [0, 2], got {gamma}")
        if not clip > 1 or warmup < 0 or refresh < 1:
            raise ValueError(
                f"MeasuredVariance: need clip > 1, warmup >= 0 and refresh >= 1, got {clip}, {warmup}, {refresh}"
            )
        refuse_parts("MeasuredVariance", warmup=warmup)
        try:
            self.moments = LevelMoments(bins, low, high, beta, smoothing, min_count)
        except ValueError as error:
            raise ValueError(f"MeasuredVariance: {error}") from None
        self.gamma, self.clip, self.warmup, self.refresh = gamma, clip, warmup, refresh
        self.weights: Tensor
        self.register_buffer("weights", torch.ones(bins))  # at the centres of the bins
        self.share: Tensor
        self.register_buffer("share", torch.full((bins,), 1 / bins, dtype=torch.float64), persistent=False)
        self.scale: Tensor  # of `weights`, from the law of their last refresh to the law as it is
        self.register_buffer("scale", torch.ones((), dtype=torch.float64), persistent=False)
        self.images, self.updates = 0, 0  # plain numbers: reading a tensor's value would stall a GPU at every step

    def prepare(self, levels: Float[Tensor, " n"]) -> None:
        """Levels (log-SNR) at equally likely draws of the noise law, over which the weights average to one."""
        left, place = self._place(levels.to(self.share))
        share = torch.zeros_like(self.share).index_add(0, left, 1 - place).index_add(0, left + 1, place)
        self.share = share / len(levels)  # of each bin's weight in the average
        self._rescale()

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        left, place = self._place(log_snr.to(loss.dtype))
        weights = (self.weights * self.scale).to(loss.dtype)
        return torch.lerp(weights[left], weights[left + 1], place)

    @torch.no_grad()
    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> None:
        """Take in the unweighted losses of one optimiser step, over all devices."""
        self.moments.update(log_snr, loss)
        self.images += loss.numel()
        self.updates += 1
        if self.updates % self.refresh == 0:
            self.moments.flush()
            gamma = self.gamma * (min(self.images / self.warmup, 1.0) if self.warmup else 1.0)
            limit = math.log(self.clip)
            log_std = 0.5 * self.moments.relative(self.moments.variance, self.share)
            weights = (-gamma * log_std).clamp(-limit, limit).exp()
            self.weights.copy_(weights / (self.share * weights).sum())
            self._rescale()

    def _rescale(self) -> None:
        """A function of weights and law alone, so that a resumed run has the same; exactly 1 where only rounding is left."""
        mean = (self.share * self.weights).sum()
        self.scale = torch.where((mean - 1).abs() < 1e-6, 1.0, 1 / mean)

    def get_extra_state(self) -> dict[str, int]:
        return {"images": self.images, "updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.images, self.updates = state["images"], state["updates"]

    def _place(self, log_snr: Float[Tensor, " n"]) -> tuple[Tensor, Float[Tensor, " n"]]:
        """The bin whose centre is next below, and how far towards the next one; constant beyond the ends."""
        low, high, bins = self.moments.low, self.moments.high, self.moments.bins
        place = ((log_snr - low) * (bins / (high - low)) - 0.5).clamp(0, bins - 1)
        left = place.long().clamp(max=bins - 2)
        return left, place - left


def _sums(loss: Float[Tensor, " n"], importance: Float[Tensor, " n"]) -> Float[Tensor, "3"]:
    """(number, sum, sum of squares) of the finite losses, each counted by its importance, in float64."""
    finite, importance = loss.isfinite(), importance.double()
    loss = torch.where(finite, loss, 0.0).double()
    return torch.stack([(finite * importance).sum(), (loss * importance).sum(), (loss**2 * importance).sum()])
