"""A residual multi-layer perceptron for low-dimensional data."""

import math
from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor, nn

from .. import tangent
from .layers import Conditioning, Dropout, Linear, Modulation, check_input


class MLP(nn.Module):
    """Residual blocks h + W2 dropout(silu(modulate(norm(W1 silu(norm(h))), embedding))), on the flattened sample.

    Args:
        shape: of one sample, (2,) for points in the plane.
        num_classes: 0 for an unconditional network.
        width: of the hidden layers and of the embedding; even.
        depth: residual blocks.
        dropout: probability, inside each block.
        norm: how the embedding enters: "adaptive" or sCM's "double" (see `layers.Modulation`).
        embedding: of the noise level, "positional" or "fourier".
        fourier_scale: see `layers.Conditioning`.
        guided: take a guidance scale as an input (see `layers.Conditioning`).
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int = 0,
        width: int = 256,
        depth: int = 4,
        dropout: float = 0.0,
        norm: Literal["adaptive", "double"] = "adaptive",
        embedding: Literal["positional", "fourier"] = "positional",
        fourier_scale: float = 1.0,
        guided: bool = False,
    ):
        super().__init__()
        if depth < 1:
            raise ValueError(f"MLP: depth must be at least 1, got {depth}")
        self.shape, self.num_classes, self.guided = tuple(shape), num_classes, guided
        features = math.prod(self.shape)
        self.conditioning = Conditioning(width, width, num_classes, 0, embedding, fourier_scale, guided)
        self.input = Linear(features, width)
        self.blocks = nn.ModuleList(_Block(width, dropout, norm) for _ in range(depth))
        self.output = Linear(width, features, gain=1e-5)

    def forward(
        self,
        x: Float[Tensor, "b ..."],
        c_noise: Float[Tensor, " b"],
        label: Int64[Tensor, " b"] | None = None,
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b ..."]:
        """F(x; c_noise, label, guidance), like x; x has about unit variance."""
        check_input("MLP", x, self.shape)
        embedding = self.conditioning(c_noise, label, guidance=guidance)
        h = self.input(x.flatten(1))
        for block in self.blocks:
            h = block(h, embedding)
        output: Tensor = self.output(tangent.silu(tangent.layer_norm(h)))
        return output.reshape(x.shape).to(x.dtype)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float, norm: Literal["adaptive", "double"]):
        super().__init__()
        self.linear0 = Linear(width, width)
        self.modulation = Modulation(width, width, norm)
        self.dropout = Dropout(dropout)
        self.linear1 = Linear(width, width, gain=1e-5)

    def forward(self, h: Float[Tensor, "b c"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b c"]:
        y = self.linear0(tangent.silu(tangent.layer_norm(h)))
        y = tangent.silu(self.modulation(tangent.layer_norm(y), embedding))
        branch: Tensor = self.linear1(self.dropout(y))
        return h + branch
