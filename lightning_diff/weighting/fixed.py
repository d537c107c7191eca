"""Weights that are functions of the noise level alone."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .base import Weighting


class Uniform(Weighting):
    """Weight 1: EDM's loss (arXiv 2206.00364, eq. 8)."""

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return torch.ones_like(loss)


class MinSNR(Weighting):
    """min(s, gamma) / (1 + s), which is min(s, gamma) on |D - x0|^2 (Min-SNR, arXiv 2303.09556).

    Args:
        gamma: > 0, where the weight stops to grow; in units of s, whatever sigma_data.
    """

    def __init__(self, gamma: int | float = 5.0):
        super().__init__()
        self.gamma = _positive("MinSNR: gamma", gamma)

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return (log_snr.clamp(max=math.log(self.gamma)).exp() * torch.sigmoid(-log_snr)).to(loss.dtype)


class SoftMinSNR(Weighting):
    """gamma s / ((s + gamma)(1 + s)), which is 1 / (1/s + 1/gamma) on |D - x0|^2 (HDiT, arXiv 2401.11605).

    Args:
        gamma: > 0. At 1 it is s / (1 + s)^2.
    """

    def __init__(self, gamma: int | float = 1.0):
        super().__init__()
        self.gamma = _positive("SoftMinSNR: gamma", gamma)

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        weight = self.gamma * torch.sigmoid(log_snr - math.log(self.gamma)) * torch.sigmoid(-log_snr)
        return weight.to(loss.dtype)


class P2(Weighting):
    """s / (1 + s) (k + s)^-gamma, which is 1 / (k + s)^gamma on the noise's error (P2, arXiv 2204.00227).

    Args:
        k: > 0, so that the weight is finite where all is noise.
        gamma: >= 0; the paper takes 0.5 or 1. At 0 it is the plain noise-prediction loss.
    """

    def __init__(self, k: int | float = 1.0, gamma: int | float = 1.0):
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"P2: gamma must not be negative, got {gamma}")
        self.k, self.gamma = _positive("P2: k", k), gamma

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return (torch.sigmoid(log_snr) * (self.k + log_snr.exp()) ** -self.gamma).to(loss.dtype)


class Sigmoid(Weighting):
    """s / (1 + s) sigmoid(bias - log_snr), which is sigmoid(bias - log_snr) on the noise's error (arXiv 2303.00848).

    Args:
        bias: log-SNR above which the noise's error counts less.
    """

    def __init__(self, bias: int | float = 0.0):
        super().__init__()
        self.bias = bias

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return (torch.sigmoid(log_snr) * torch.sigmoid(self.bias - log_snr)).to(loss.dtype)


class _Bell(Weighting):
    """A weight that falls off from the mean log-SNR mu.

    The published code takes mu over the batch. In training it is the mean under the noise law, from `prepare`: with stratified
    levels a global batch has that mean to about 1e-3, and micro-batches do not change it. Without `prepare` the batch given is the
    whole one, and mu its mean.
    """

    def __init__(self, alpha: int | float):
        super().__init__()
        if not alpha >= 0:
            raise ValueError(f"{type(self).__name__}: alpha must not be negative, got {alpha}")
        self.alpha = alpha
        self.mu: float | None = None

    def prepare(self, levels: Float[Tensor, " n"]) -> None:
        self.mu = float(levels.double().mean())

    def square(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """alpha (log_snr - mu)^2."""
        return self.alpha * (log_snr - (log_snr.mean() if self.mu is None else self.mu)) ** 2


class LogSNRBell(_Bell):
    """1 / (1 + alpha (log_snr - mu)^2): what the code of Sun & Shi runs (arXiv 2603.10391, algorithm 1).

    It does not average to one: under EDM's law to 0.83.

    Args:
        alpha: >= 0; the authors take 0.05.
    """

    def __init__(self, alpha: int | float = 0.05):
        super().__init__(alpha)

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return (1 / (1 + self.square(log_snr))).to(loss.dtype)


class GaussianBell(_Bell):
    """exp(-alpha (log_snr - mu)^2): what the text of Sun & Shi writes (arXiv 2603.10391, eq. 13).

    Args:
        alpha: >= 0; the authors take 0.05.
    """

    def __init__(self, alpha: int | float = 0.05):
        super().__init__(alpha)

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return (-self.square(log_snr)).exp().to(loss.dtype)


def _positive(name: str, value: int | float) -> int | float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return value
