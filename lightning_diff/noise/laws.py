"""Noise levels: three names for one coordinate, the laws that training draws them from, and stratified draws.

    sigma    EDM's noise level, x = x0 + sigma * eps, sigma > 0
    t        TrigFlow's angle, t = arctan(sigma / sigma_data), in (0, pi/2)
    log_snr  lambda = ln(sigma_data**2 / sigma**2), any real number; small is noisy
    flow     flow matching's time, x_t = (1 - t) x0 + t eps, t = sigma / (1 + sigma), in (0, 1)

Only this file converts between them.
"""

import math
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


def sigma_to_log_snr(sigma: Float[Tensor, "*b"], sigma_data: float = 0.5) -> Float[Tensor, "*b"]:
    """lambda = ln(sigma_data^2 / sigma^2)."""
    return 2 * (math.log(sigma_data) - sigma.log())


def log_snr_to_sigma(log_snr: Float[Tensor, "*b"], sigma_data: float = 0.5) -> Float[Tensor, "*b"]:
    """sigma = sigma_data * exp(-lambda / 2)."""
    return sigma_data * (-0.5 * log_snr).exp()


def sigma_to_t(sigma: Float[Tensor, "*b"], sigma_data: float = 0.5) -> Float[Tensor, "*b"]:
    """TrigFlow's angle t = arctan(sigma / sigma_data) (sCM, arXiv 2410.11081, section 3)."""
    return (sigma / sigma_data).atan()


def t_to_sigma(t: Float[Tensor, "*b"], sigma_data: float = 0.5) -> Float[Tensor, "*b"]:
    """sigma = sigma_data * tan(t)."""
    return sigma_data * t.tan()


def sigma_to_flow_time(sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Flow matching's t = sigma / (1 + sigma): its x_t = (1 - t) x0 + t eps is (1 - t) (x0 + sigma eps)."""
    return sigma / (1 + sigma)


def flow_time_to_sigma(t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """sigma = t / (1 - t), for t in (0, 1)."""
    return t / (1 - t)


def stratified(n: int, generator: torch.Generator | None = None) -> Float[Tensor, " n"]:
    """n float64 uniforms in (0, 1), one in each of the n equal strata, in increasing order.

    Stratification removes the between-level part of the variance of a batch's mean loss
    (VDM, arXiv 2107.00630, appendix I; k-diffusion draws one uniform for each stratum, as here).
    """
    jitter = torch.rand(n, generator=generator, dtype=torch.float64)
    return ((torch.arange(n, dtype=torch.float64) + jitter) / n).clamp(2.0**-53, 1 - 2.0**-53)


@runtime_checkable
class NoiseLaw(Protocol):
    """What every law of noise levels has: an object of anybody's own with these two can be trained on."""

    def icdf(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The noise level below which the share u of all draws lies, u in (0, 1); increasing."""
        ...

    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Log density with respect to ln sigma, so that laws over different ranges compare."""
        ...


class TrainingLaw:
    """A noise law with what else the training step calls, and defaults for one that does not learn.

    A subclass gives `icdf` and `log_prob`; the other methods are there to be overridden.
    """

    def icdf(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        raise NotImplementedError

    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        raise NotImplementedError

    def importance(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Factors on the loss that keep the objective what it is under the base law."""
        return torch.ones_like(sigma)

    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> None:
        """After each optimiser step: its unweighted losses and their weights, over all devices, in order of position.

        Losses that are not finite are to be left out.
        """

    @property
    def learns(self) -> bool:
        """Whether `update` is of any use; if nobody learns from the losses, they are not gathered from the processes."""
        return type(self).update is not TrainingLaw.update

    def base_law(self) -> NoiseLaw:
        """The law that it started from; itself if it does not learn."""
        return self

    def objective_law(self) -> NoiseLaw:
        """The law that the loss is averaged over: the base law where importance carries draws back to it, else the law itself.

        Weights of mean one have that mean here.
        """
        return self.base_law() if type(self).importance is not TrainingLaw.importance else self

    @property
    def largest(self) -> float | None:
        """The level that it gives a share of its own and draws none above, from which a consistency model then samples."""
        return None

    @property
    def revision(self) -> object:
        """Equal between two moments only if `objective_law` was the same at both; one that learns on its own should say more."""
        return object() if self.learns and self.objective_law() is self else None


def cdf(law: NoiseLaw, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """P(level <= sigma), by bisection of the law's inverse, to the last digit."""
    low, high = torch.zeros_like(sigma), torch.ones_like(sigma)
    for _ in range(60):
        middle = (low + high) / 2
        above = law.icdf(middle) > sigma
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def as_training_law(law: NoiseLaw) -> TrainingLaw:
    """A law of somebody's own, which may have `icdf` and `log_prob` alone, as a `TrainingLaw`; a `TrainingLaw` as it is."""
    return law if isinstance(law, TrainingLaw) else _Completed(law)


class _Completed(TrainingLaw):
    """A law with the methods of `TrainingLaw` that it lacks."""

    def __init__(self, law: NoiseLaw):
        self.law = law

    def icdf(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.law.icdf(u)

    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.law.log_prob(sigma)

    def importance(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        own = getattr(self.law, "importance", super().importance)
        return cast(Tensor, own(sigma))

    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> None:
        getattr(self.law, "update", super().update)(log_snr, loss, weight)

    @property
    def learns(self) -> bool:
        return hasattr(self.law, "update")

    def base_law(self) -> NoiseLaw:
        return cast(NoiseLaw, getattr(self.law, "base", self.law))

    def objective_law(self) -> NoiseLaw:
        return self.base_law() if hasattr(self.law, "importance") else self.law

    @property
    def revision(self) -> object:
        return object() if self.learns and self.objective_law() is self.law else None


class LogNormal(TrainingLaw):
    """ln sigma ~ N(mean, std^2): EDM's law (arXiv 2206.00364, table 1; P_mean, P_std) and TrigFlow's.

    Args:
        mean: P_mean, the mean of ln sigma. EDM: -1.2 for CIFAR-10.
        std: P_std > 0, the standard deviation of ln sigma. EDM: 1.2.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2):
        if not std > 0:
            raise ValueError(f"LogNormal: std must be positive, got {std}")
        self.mean, self.std = mean, std

    def icdf(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        z: Tensor = torch.special.ndtri(u)
        return (self.mean + self.std * z).exp()

    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        z = (sigma.log() - self.mean) / self.std
        return -0.5 * z**2 - math.log(self.std * math.sqrt(2 * math.pi))


class LogUniform(TrainingLaw):
    """ln sigma uniform between two levels: every noise level equally often, for diagnostics and oracles.

    Args:
        low: smallest sigma, > 0.
        high: largest sigma, > low.
    """

    def __init__(self, low: float = 0.002, high: float = 80.0):
        if not 0 < low < high:
            raise ValueError(f"LogUniform: need 0 < low < high, got low={low}, high={high}")
        self.low, self.high = low, high

    def icdf(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return (math.log(self.low) + u * math.log(self.high / self.low)).exp()

    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        inside = (sigma >= self.low) & (sigma <= self.high)
        return torch.where(inside, -math.log(math.log(self.high / self.low)), -torch.inf).to(sigma.dtype)


class Karras(TrainingLaw):
    """sigma^(1/rho) uniform between two levels: as often as EDM's grid has nodes there (arXiv 2206.00364, eq. 5).

    Args:
        low: smallest sigma, > 0.
        high: largest sigma, > low.
        rho: > 0; EDM's is 7. The larger, the nearer to `LogUniform`.
    """

    def __init__(self, low: float = 0.002, high: float = 80.0, rho: float = 7.0):
        if not (0 < low < high and rho > 0):
            raise ValueError(f"Karras: need 0 < low < high and rho > 0, got low={low}, high={high}, rho={rho}")
        self.low, self.high, self.rho = low, high, rho

    def icdf(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        low, high = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        sigma: Tensor = (low + u * (high - low)) ** self.rho
        return sigma

    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        low, high = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        log_density = sigma.log() / self.rho - math.log(self.rho * (high - low))
        return torch.where((sigma >= self.low) & (sigma <= self.high), log_density, -torch.inf).to(sigma.dtype)
