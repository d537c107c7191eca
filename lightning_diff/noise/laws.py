"""Noise levels: three names for one coordinate, the laws that training draws them from, and stratified draws.

    sigma    EDM's noise level, x = x0 + sigma * eps, sigma > 0
    t        TrigFlow's angle, t = arctan(sigma / sigma_data), in (0, pi/2)
    log_snr  lambda = ln(sigma_data**2 / sigma**2), any real number; small is noisy
    flow     flow matching's time, x_t = (1 - t) x0 + t eps, t = sigma / (1 + sigma), in (0, 1)

Only this file converts between them.
"""

import math
from typing import Protocol, runtime_checkable

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
    """What training draws its noise levels from."""

    def icdf(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]: ...
    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]: ...


class LogNormal:
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
        return (self.mean + self.std * torch.special.ndtri(u)).exp()

    def log_prob(self, sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        z = (sigma.log() - self.mean) / self.std
        return -0.5 * z**2 - math.log(self.std * math.sqrt(2 * math.pi))


class LogUniform:
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
