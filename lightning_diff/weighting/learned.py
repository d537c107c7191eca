"""Weights that a small network learns beside the model."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .base import Weighting, as_weighting
from .fixed import Uniform


class LearnedVariance(Weighting):
    """loss / e^u + u with a learned u(log_snr): every level then weighs the same (EDM2, arXiv 2312.02696).

    The optimum is e^u = E[loss | log_snr]. u is one bias-free linear layer, its weights of norm 1, on magnitude-preserving
    Fourier features sqrt(2) cos(2 pi (f c + phi)). EDM2 takes c = c_noise = ln(sigma) / 4; c = -log_snr / 8 differs from it by
    the constant ln(sigma_data) / 4, which the random phases make irrelevant, so that sigma_data need not be known here. u trains
    under the model's optimiser, has a part in the gradient's norm, and is saved with the module, in no average of weights.

    Args:
        channels: number of features, >= 1.
        outer: a weighting that multiplies both terms, the only place where one has an effect: inside the first term alone, u
            would cancel it.
    """

    def __init__(self, channels: int = 128, outer: nn.Module | None = None):
        super().__init__()
        if channels < 1:
            raise ValueError(f"LearnedVariance: channels must be at least 1, got {channels}")
        outer = outer if outer is not None else Uniform()
        if as_weighting(outer).has_penalty:
            raise ValueError(
                f"LearnedVariance: outer must be a fixed or measured weighting, got {type(outer).__name__}, whose own penalty "
                "cancels other weights inside its first term"
            )
        self.outer = outer
        self.weight = nn.Parameter(torch.randn(channels))
        self.frequency: Tensor
        self.phase: Tensor
        self.register_buffer("frequency", torch.randn(channels))
        self.register_buffer("phase", torch.rand(channels))

    def u(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """ln of the expected loss at each level, with its gradient, in float32."""
        angle = (2 * math.pi) * (log_snr.float()[:, None] * (self.frequency / -8) + self.phase)
        weight = (math.sqrt(2) / self.weight.norm().clamp(min=1e-8)) * self.weight
        with torch.autocast(log_snr.device.type, enabled=False):  # which would round to 16 bits
            u: Tensor = angle.cos_() @ weight
        return u

    def forward(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        outer: Tensor = self.outer(log_snr, loss)
        return outer * (-self.u(log_snr)).exp().to(loss.dtype)

    def penalty(self, log_snr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What is added to the weighted loss: u, times the outer weight."""
        outer: Tensor = self.outer(log_snr, loss)
        return outer * self.u(log_snr).to(loss.dtype)

    def prepare(self, levels: Float[Tensor, " n"]) -> None:
        as_weighting(self.outer).prepare(levels)

    def update(self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> None:
        as_weighting(self.outer).update(log_snr, loss)

    def update_from(
        self, log_snr: Float[Tensor, " n"], loss: Float[Tensor, " n"], importance: Float[Tensor, " n"]
    ) -> None:
        as_weighting(self.outer).update_from(log_snr, loss, importance)

    @property
    def learns(self) -> bool:
        return as_weighting(self.outer).learns
