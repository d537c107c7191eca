"""Magnitude-preserving layers (EDM2, arXiv 2312.02696): with inputs of mean square one, outputs have about mean square one.

A weight counts by its direction alone: each output's row is scaled to length one when it is used. A training step is therefore the
larger the shorter the row, and `after_step` gives all rows mean square one again, after each optimiser step.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import tangent

EPS = 1e-4
SILU_RMS = 0.596  # root of E[silu(z)^2], z standard normal


class _Weight(nn.Module):
    """Rows of a weight, one for each output, and their use by direction (equations 47 and 66)."""

    def __init__(self, out_features: int, *rest: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, *rest))

    def scaled(self, gain: float | Tensor) -> Tensor:
        """Rows of length `gain`, in the weight's own precision."""
        wide = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        fan_in = math.prod(self.weight.shape[1:])
        return (wide / (EPS + _row_rms(wide)) * (gain / math.sqrt(fan_in))).to(self.weight.dtype)

    @torch.no_grad()
    def after_step(self) -> None:
        """Forced weight normalisation: rows of mean square one."""
        if self.weight.requires_grad:
            self.weight.div_(_row_rms(self.weight).clamp_min(EPS))


class MPLinear(_Weight):
    """Fully connected layer over the last axis, without bias."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(out_features, in_features)

    def forward(self, x: Float[Tensor, "*b c"], gain: float | Float[Tensor, ""] = 1.0) -> Float[Tensor, "*b d"]:
        return tangent.linear(x, self.scaled(gain), None)


class MPConv(_Weight):
    """Convolution that keeps height and width, without bias: stride 1, odd kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3):
        super().__init__(out_channels, in_channels, kernel, kernel)

    def forward(self, x: Float[Tensor, "b c h w"], gain: float | Float[Tensor, ""] = 1.0) -> Float[Tensor, "b d h w"]:
        return tangent.conv2d(x, self.scaled(gain), None, padding=self.weight.shape[-1] // 2)


class MPFourier(nn.Module):
    """sqrt(2) cos(2 pi f c + phase) at fixed random frequencies f ~ N(0, bandwidth^2) (equation 75).

    Args:
        channels: how many.
        bandwidth: periods per unit of c, one standard deviation.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int, bandwidth: float = 1.0):
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * bandwidth * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, c: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        return (c[:, None] * self.freqs.to(c.dtype) + self.phases.to(c.dtype)).cos() * math.sqrt(2)


def mp_silu(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """silu(x) / 0.596 (equation 81)."""
    return tangent.silu(x) / SILU_RMS


def mp_sum(x: Float[Tensor, "..."], y: Float[Tensor, "..."], balance: float) -> Float[Tensor, "..."]:
    """((1 - balance) x + balance y) over the length of its two weights (equation 88)."""
    length = math.hypot(1 - balance, balance)
    return (1 - balance) / length * x + balance / length * y


def mp_cat(x: Float[Tensor, "b c h w"], y: Float[Tensor, "b d h w"], balance: float) -> Float[Tensor, "b e h w"]:
    """Concatenation in which x and y count as 1 - balance to balance, whatever their channels (equation 103)."""
    (own, other), length = (x.shape[1], y.shape[1]), math.hypot(1 - balance, balance)
    scale = math.sqrt(own + other) / length
    return torch.cat([scale * (1 - balance) / math.sqrt(own) * x, scale * balance / math.sqrt(other) * y], dim=1)


def _row_rms(weight: Tensor) -> Tensor:
    axes = tuple(range(1, weight.ndim))
    length: Tensor = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
    return length / math.sqrt(math.prod(weight.shape[1:]))
