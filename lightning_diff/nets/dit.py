"""The diffusion transformer (DiT, arXiv 2212.09748) with adaLN-Zero, for latents and for pictures of some 64 pixels."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import tangent
from .layers import Attention, Conditioning, Dropout, Linear, Modulation, check_input


class DiT(nn.Module):
    """Transformer over square patches; every block is modulated by the embedding and starts as the identity.

    The defaults are DiT-S (33 million parameters); DiT-B, L and XL are width 768, 1024 and 1152, depth 12, 24 and 28,
    heads 12, 16 and 16.

    Args:
        shape: (channels, height, width) of a picture or latent; height and width divisible by patch_size. It is called with any
            others that are, too (images in buckets): the positions of their patches are counted from the middle.
        num_classes: 0 for an unconditional network, which ignores labels.
        augment_dim: length of the augmentation vector, 0 for none.
        patch_size: pixels along a patch's side; the cost grows with its inverse fourth power.
        width: channels of a token; divisible by 4 and by heads.
        depth: transformer blocks.
        heads: attention heads.
        mlp_ratio: hidden over outer width of a block's perceptron.
        qk_norm: give queries and keys mean square 1 (EDM2); steadies consistency training.
        dropout: probability, at the end of each residual branch.
        norm: "adaptive" (adaLN) or sCM's "double" normalisation of scale and shift (see `layers.Modulation`).
        embedding: of the noise level, "positional" or "fourier".
        fourier_scale: see `layers.Conditioning`.
        guided: take a guidance scale as an input (see `layers.Conditioning`).
        checkpointing: keep only each block's input for the backward pass, which runs the block again: about a third more time,
            and memory for one block's activations instead of all. In a Jacobian-vector product everything is kept.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("checkpointing",)

    positions: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int = 0,
        augment_dim: int = 0,
        patch_size: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        dropout: float = 0.0,
        norm: Literal["adaptive", "double"] = "adaptive",
        embedding: Literal["positional", "fourier"] = "positional",
        fourier_scale: float = 1.0,
        guided: bool = False,
        checkpointing: bool = False,
    ):
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"DiT: shape must be (channels, height, width), got {tuple(shape)}")
        if patch_size < 1 or shape[1] % patch_size or shape[2] % patch_size:
            raise ValueError(f"DiT: patch_size must divide height and width {shape[1]}x{shape[2]}, got {patch_size}")
        if width % 4:
            raise ValueError(f"DiT: width must be divisible by 4 (sines and cosines of two coordinates), got {width}")
        self.shape, self.num_classes, self.augment_dim, self.guided = tuple(shape), num_classes, augment_dim, guided
        self.patch_size = patch_size
        self.grid = shape[1] // patch_size, shape[2] // patch_size
        features = shape[0] * patch_size**2
        self.conditioning = Conditioning(256, width, num_classes, augment_dim, embedding, fourier_scale, guided)
        self.input = Linear(features, width)
        self.register_buffer("positions", _sin_cos_grid(*self.grid, width), persistent=False)
        self.blocks = nn.ModuleList(
            _Block(width, heads, round(mlp_ratio * width), qk_norm, dropout, norm, checkpointing) for _ in range(depth)
        )
        self.modulation = Modulation(width, width, norm, gain=0.0)
        self.output = Linear(width, features, gain=0.0)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        c_noise: Float[Tensor, " b"],
        label: Int64[Tensor, " b"] | None = None,
        augment: Float[Tensor, "b a"] | None = None,
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """F(x; c_noise, label, augment, guidance), like x; x has about unit variance."""
        check_input("DiT", x, self.shape, self.patch_size)
        embedding = self.conditioning(c_noise, label, augment, guidance)
        p, rows, columns = self.patch_size, x.shape[2] // self.patch_size, x.shape[3] // self.patch_size
        h = self.input(rearrange(x, "b c (i p) (j q) -> b (i j) (c p q)", p=p, q=p)) + self._positions(rows, columns)
        for block in self.blocks:
            h = block(h, embedding)
        patches = self.output(self.modulation(tangent.layer_norm(h), embedding))
        output: Tensor = rearrange(patches, "b (i j) (c p q) -> b c (i p) (j q)", i=rows, j=columns, p=p, q=p)
        return output.to(x.dtype)

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "n c"]:
        """Of so many patches, with the middle where that of `shape` is (as SD3 places those of other aspect ratios)."""
        if (rows, columns) == self.grid:
            return self.positions
        first = (self.grid[0] - rows) / 2, (self.grid[1] - columns) / 2
        width = self.positions.shape[1]
        return _sin_cos_grid(rows, columns, width, first, self.positions.device).to(self.positions.dtype)


class _Block(nn.Module):
    """h + gate attention(modulate(norm(h))), then h + gate mlp(modulate(norm(h))); both gates start at 0."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        qk_norm: bool,
        dropout: float,
        norm: Literal["adaptive", "double"],
        checkpointing: bool,
    ):
        super().__init__()
        self.checkpointing = checkpointing
        self.modulation0 = Modulation(width, width, norm, gain=0.0)
        self.attention = Attention(width, heads, qk_norm)
        self.modulation1 = Modulation(width, width, norm, gain=0.0)
        self.linear0, self.linear1 = Linear(width, hidden), Linear(hidden, width)
        self.gates = Linear(width, 2 * width, gain=0.0)
        self.dropout = Dropout(dropout)

    def forward(self, h: Float[Tensor, "b n c"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b n c"]:
        if self.checkpointing and torch.is_grad_enabled() and tangent.mode() == "native":
            repeats = self.training and self.dropout.p > 0
            output: Tensor = checkpoint(self._residuals, h, embedding, use_reentrant=False, preserve_rng_state=repeats)
            return output
        return self._residuals(h, embedding)

    def _residuals(self, h: Float[Tensor, "b n c"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b n c"]:
        gate0, gate1 = self.gates(embedding)[:, None].chunk(2, dim=-1)
        y = self.attention(self.modulation0(tangent.layer_norm(h), embedding))
        h = tangent.modulate(self.dropout(y), gate0, h)
        y = self.linear1(tangent.gelu(self.linear0(self.modulation1(tangent.layer_norm(h), embedding))))
        return tangent.modulate(self.dropout(y), gate1, h)


def _sin_cos_grid(
    rows: int,
    columns: int,
    width: int,
    first: tuple[float, float] = (0, 0),
    device: torch.device | None = None,
) -> Float[Tensor, "n c"]:
    """Half the channels tell the row, half the column: [sin, cos] at frequencies 10000^(-k / n), k = 0..n-1.

    Args:
        first: row and column of the first patch, whole or half numbers.
    """
    n = width // 4
    freqs = 10000.0 ** (-torch.arange(n, device=device) / n)
    places = (torch.arange(count, device=device) + start for count, start in zip((rows, columns), first, strict=True))
    row, column = torch.meshgrid(*places, indexing="ij")
    angles = torch.stack([row, column], -1).reshape(-1, 2, 1) * freqs
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
