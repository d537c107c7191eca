"""Noise laws that learn from the losses which levels to draw."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..foundation.lengths import refuse_parts
from .laws import NoiseLaw, TrainingLaw, cdf, log_snr_to_sigma, sigma_to_log_snr
from .moments import LevelMoments


class BinnedNoise(TrainingLaw, nn.Module):
    """What the laws below share: a base law, some of whose log-SNR bins are drawn more often and others less.

    Within a bin levels keep the base law's distribution, and so do the tails beyond the bins. The cumulative distribution is
    therefore piecewise linear in the base law's own, and `icdf` inverts it exactly: stratified u give stratified levels.
    Subclasses say which masses the bins should have.
    """

    OF_RUN: ClassVar[tuple[str, ...]] = ("warmup",)

    masses: Tensor
    base_masses: Tensor
    base_edges: Tensor

    def __init__(
        self,
        base: NoiseLaw,
        bins: int,
        mix: float,
        beta: float,
        smoothing: float,
        min_count: float,
        warmup: int | float,
        refresh: int,
        low: float,
        high: float,
        sigma_data: float,
    ):
        super().__init__()
        name = type(self).__name__
        if not 0 < mix <= 1 or warmup < 0 or refresh < 1 or not sigma_data > 0:
            raise ValueError(f"{name}: need 0 < mix <= 1, warmup >= 0, refresh >= 1 and sigma_data > 0")
        refuse_parts(name, warmup=warmup)
        try:
            self.moments = LevelMoments(bins, low, high, beta, smoothing, min_count)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        self.base, self.mix, self.warmup, self.refresh, self.sigma_data = base, mix, warmup, refresh, sigma_data
        levels = torch.linspace(high, low, bins + 1, dtype=torch.float64)  # sigma rises as log-SNR falls
        edges = cdf(base, log_snr_to_sigma(levels, sigma_data))
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        edges = torch.cat([ends[:1], edges, ends[1:]])  # in the base law's u: tail, the bins from clean to noisy, tail
        self.register_buffer("base_edges", edges, persistent=False)
        self.register_buffer("base_masses", edges.diff(), persistent=False)
        self.register_buffer("masses", edges.diff())
        self.images, self.updates = 0, 0  # plain numbers: reading a tensor's value would stall a GPU at every step
        self._tabled: tuple[tuple[int, int], Tensor, Tensor] | None = None

    @property
    def bin_masses(self) -> Float[Tensor, " bins"]:
        """Of the base law, in order of log-SNR."""
        return self.base_masses[1:-1].flip(0)

    def base_law(self) -> NoiseLaw:
        return self.base

    @property
    def revision(self) -> object:
        return self._masses_version if self.objective_law() is self else None

    @property
    def _masses_version(self) -> tuple[int, int]:
        """Of the masses: another one after each change."""
        return self.masses._version, self.masses.data_ptr()

    def icdf(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        edges, ratios = self._tables()
        segment = torch.searchsorted(edges, u.double()).clamp(max=len(edges) - 1)
        above = (edges[segment] - u).clamp(min=0) / ratios[segment].clamp(
            min=1e-300
        )  # up to the edge, in the base law's u
        within_base = (self.base_edges[segment + 1] - above).clamp(min=self.base_edges[segment])
        return self.base.icdf(within_base.clamp(2.0**-53, 1 - 2.0**-53)).to(u.dtype)

    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Of the law as it is now."""
        return self.base.log_prob(sigma) + self._ratio(sigma).log()

    def _ratio(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Density now over the base law's."""
        low, high, bins = self.moments.low, self.moments.high, self.moments.bins
        place = ((sigma_to_log_snr(sigma, self.sigma_data) - low) * (bins / (high - low))).floor().long()
        segment = (bins - place).clamp(0, bins + 1)
        return self._tables()[1][segment].to(sigma.dtype)

    def _tables(self) -> tuple[Float[Tensor, " edges"], Float[Tensor, " segments"]]:
        """Upper edges in this law's u, and densities over the base law's; made anew only when the masses have changed."""
        if self._tabled is None or self._tabled[0] != self._masses_version:
            ratios = torch.where(self.base_masses > 0, self.masses / self.base_masses.clamp(min=1e-300), 1.0)
            self._tabled = self._masses_version, self.masses.cumsum(0), ratios
        return self._tabled[1:]

    @torch.no_grad()
    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> None:
        """Take in the unweighted losses and the weights of one optimiser step, over all devices."""
        self.moments.update(log_snr, self.measure(loss, weight))
        self.images += loss.numel()
        self.updates += 1
        if self.updates % self.refresh == 0:
            self.moments.flush()
            wanted = self.wanted().clamp(min=0)
            wanted = wanted * (self.bin_masses.sum() / wanted.sum())
            mix = 1 - (1 - self.mix) * (min(self.images / self.warmup, 1.0) if self.warmup else 1.0)
            self.masses[1:-1] = (mix * self.bin_masses + (1 - mix) * wanted).flip(0)

    def measure(self, loss: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The value whose running mean per bin `wanted` goes by."""
        raise NotImplementedError

    def wanted(self) -> Float[Tensor, " bins"]:
        """Masses of the bins, in order of log-SNR, up to a factor."""
        raise NotImplementedError

    def get_extra_state(self) -> dict[str, int]:
        return {"images": self.images, "updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.images, self.updates = state["images"], state["updates"]


class AdaptiveNoise(BinnedNoise):
    """Draw levels in proportion to how much they add to the variance of the estimate, and divide by how often they are drawn.

    For an expectation under a fixed law p that is estimated from draws of q with weights p / q, the variance is smallest at
    q ~ p sqrt(E[value^2 | level]) (Neyman 1934). iDDPM (arXiv 2102.09672) draws so by the loss; here per bin of
    log-SNR, for any base law, from the whole global batch. `importance` is p / q, so that the expected gradient stays what it
    is under the base law.

    Args:
        base: the law of the objective.
        bins: bins of log-SNR over [low, high].
        mix: share of draws from the base law, in (0, 1]; importance stays below 1 / mix.
        target: whose second moment counts: "loss" takes that of the weighted loss, as iDDPM does; "gradient" takes weight^2 * loss,
            because the gradient of a squared error grows with its root.
        beta: decay of the measurement at each visit of a bin, in (0, 1).
        smoothing: standard deviation of the kernel over bins, in bins, > 0.
        min_count: samples at which a bin's measurement is trusted in full.
        warmup: images over which the share of draws from the base law falls from 1 to `mix`; in a recipe, a number below 1 is
            a share of the run.
        refresh: optimiser steps between changes of the law.
        low, high: range of log_snr; beyond it the base law stands.
        sigma_data: standard deviation of the data (a fact of the data: a recipe may leave it out).
    """

    def __init__(
        self,
        base: NoiseLaw,
        bins: int = 40,
        mix: float = 0.2,
        target: Literal["loss", "gradient"] = "loss",
        beta: float = 0.99,
        smoothing: float = 1.0,
        min_count: float = 32.0,
        warmup: int | float = 20_000,
        refresh: int = 10,
        low: float = -10.0,
        high: float = 10.0,
        sigma_data: float = 0.5,
    ):
        super().__init__(base, bins, mix, beta, smoothing, min_count, warmup, refresh, low, high, sigma_data)
        self.target = target

    def importance(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Density of the base law over the density now: what multiplies the loss."""
        return 1 / self._ratio(sigma)

    def measure(self, loss: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return weight**2 * (loss**2 if self.target == "loss" else loss)

    def wanted(self) -> Float[Tensor, " bins"]:
        return self.bin_masses * (0.5 * self.moments.relative(self.moments.mean, self.bin_masses)).exp()


class InfoNoise(BinnedNoise):
    """Draw levels by how fast they reveal the image: InfoNoise (arXiv 2602.18647), re-implemented from its description.

    Stated by the paper: the weight w on |D - x0|^2 stays and the law becomes pi ~ rho / w, with the information rate
    rho ~ mse / sigma^3 per unit of sigma (the posterior's error, measured without weights), times a gate
    sigma^n / (sigma^n + c^n) with n = 3, sampled by its inverse after a warm-up. There is no importance correction: the
    law *is* the change of objective. In the terms used here, mse = c_out^2 loss and w = weight / c_out^2, so per unit of
    log-SNR, with s the signal-to-noise ratio,

        pi ~ loss / weight * s / (1 + s)^2 * gate.

    Our choices, because no code is public: equal bins, the running mean and its smoothing, `mix`, the base law's
    distribution inside a bin and beyond the bins, and the reading of the paper's onset threshold 0.002: c is the smallest
    sigma at which mse / sigma_data^2 reaches it, below which there is next to nothing left to reveal.

    Args:
        base: the law to start from, and of which a share stays.
        bins: bins of log-SNR over [low, high].
        mix: share of draws from the base law, in (0, 1].
        onset: threshold on mse / sigma_data^2, in (0, 1).
        exponent: n of the gate, > 0.
        beta, smoothing, min_count, warmup, refresh, low, high, sigma_data: as for AdaptiveNoise.
    """

    def __init__(
        self,
        base: NoiseLaw,
        bins: int = 40,
        mix: float = 0.1,
        onset: float = 0.002,
        exponent: float = 3.0,
        beta: float = 0.99,
        smoothing: float = 1.0,
        min_count: float = 32.0,
        warmup: int | float = 20_000,
        refresh: int = 10,
        low: float = -10.0,
        high: float = 10.0,
        sigma_data: float = 0.5,
    ):
        super().__init__(base, bins, mix, beta, smoothing, min_count, warmup, refresh, low, high, sigma_data)
        if not 0 < onset < 1 or not exponent > 0:
            raise ValueError(f"InfoNoise: need 0 < onset < 1 and exponent > 0, got {onset}, {exponent}")
        self.onset, self.exponent = onset, exponent
        width = (high - low) / bins
        centres = low + width * (torch.arange(bins, dtype=torch.float64) + 0.5)
        self.centres: Tensor
        self.register_buffer("centres", centres, persistent=False)
        # For the gate, which needs the posterior's error whatever the weights.
        self.losses = LevelMoments(bins, low, high, beta, smoothing, min_count)

    @torch.no_grad()
    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> None:
        self.losses.update(log_snr, loss)
        super().update(log_snr, loss, weight)

    def measure(self, loss: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return loss / weight

    def wanted(self) -> Float[Tensor, " bins"]:
        self.losses.flush()
        # mse / sigma_data^2 = loss sigma^2 / (sigma^2 + sigma_data^2) = loss / (1 + s)
        revealed = self.losses.mean * torch.sigmoid(-self.centres) >= self.onset
        noisiest = torch.full_like(self.centres, self.moments.low)
        onset = torch.where(revealed, self.centres, noisiest).max()  # largest log-SNR: smallest sigma
        gate = torch.sigmoid(0.5 * self.exponent * (onset - self.centres))  # sigma^n / (sigma^n + c^n)
        rate = torch.sigmoid(self.centres) * torch.sigmoid(-self.centres)  # s / (1 + s)^2
        measured = self.moments.relative(self.moments.mean, self.bin_masses).exp()
        return measured * rate * gate * (self.bin_masses > 1e-9)  # no level to draw where the base law has none
