"""The U-Net of EDM: DDPM++ (arXiv 2011.13456) as EDM trains it (arXiv 2206.00364, table 7), down to 8x8 pictures."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .. import tangent
from .layers import (
    Attention,
    Conditioning,
    Conv,
    Dropout,
    GroupNorm,
    Linear,
    Modulation,
    Norm,
    check_input,
    refuse_impossible_levels,
)


class UNet(nn.Module):
    """DDPM++: residual blocks at halving resolutions, then back up, where a block takes in an output of the way down.

    The defaults are EDM's network for CIFAR-10 (55.7 million parameters) but for its dropout, 0.13. For 8x8 pictures
    `channels=32, channel_mult=[1, 2], num_blocks=2` is ample.

    Args:
        shape: (channels, height, width) of a picture; height and width divisible by 2^(len(channel_mult) - 1). It is called with
            any others that are, too: images in buckets.
        num_classes: 0 for an unconditional network, which ignores labels.
        augment_dim: length of the augmentation vector, 0 for none.
        channels: base width; even.
        channel_mult: width of each resolution over the base width, the finest first.
        num_blocks: residual blocks per resolution on the way down (one more on the way up).
        attention: resolutions (heights in pixels, of `shape`) whose blocks attend; the middle block always does.
        heads: attention heads; divides the widths of the attending blocks.
        qk_norm: give queries and keys mean square 1 (EDM2).
        dropout: probability, inside each block.
        norm: how the embedding enters a block: "additive" before its second norm (DDPM++), "adaptive" scale and shift
            after it (ADM), or sCM's "double" normalisation of both (see `layers.Modulation`).
        embedding: of the noise level, "positional" (DDPM++) or "fourier" (NCSN++).
        fourier_scale: see `layers.Conditioning`.
        guided: take a guidance scale as an input (see `layers.Conditioning`).
        skip_scale: multiplies every residual sum; sqrt(1/2) keeps its variance.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int = 0,
        augment_dim: int = 0,
        channels: int = 128,
        channel_mult: Sequence[int] = (2, 2, 2),
        num_blocks: int = 4,
        attention: Sequence[int] = (16,),
        heads: int = 1,
        qk_norm: bool = False,
        dropout: float = 0.0,
        norm: Norm = "additive",
        embedding: Literal["positional", "fourier"] = "positional",
        fourier_scale: float = 16.0,
        skip_scale: float = math.sqrt(0.5),
        guided: bool = False,
    ):
        super().__init__()
        refuse_impossible_levels("UNet", shape, channel_mult, num_blocks)
        self.shape, self.num_classes, self.augment_dim, self.guided = tuple(shape), num_classes, augment_dim, guided
        width = 4 * channels  # of the embedding, in DDPM++, NCSN++ and ADM alike
        self.conditioning = Conditioning(channels, width, num_classes, augment_dim, embedding, fourier_scale, guided)

        def block(c_in: int, c_out: int, attends: bool = False, resample: Literal["up", "down"] | None = None) -> Block:
            attending_heads = heads if attends else 0
            return Block(c_in, c_out, width, norm, attending_heads, qk_norm, dropout, skip_scale, resample)

        self.multiple = 2 ** (len(channel_mult) - 1)  # that sides are divisible by
        self.input = Conv(shape[0], channels)
        c, skips = channels, [channels]
        down: list[Block] = []
        for level, mult in enumerate(channel_mult):
            attends = shape[1] >> level in attention
            if level > 0:
                down.append(block(c, c, resample="down"))
                skips.append(c)
            for _ in range(num_blocks):
                down.append(block(c, channels * mult, attends))
                c = channels * mult
                skips.append(c)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([block(c, c, attends=True), block(c, c)])
        up: list[Block] = []
        for level, mult in reversed(list(enumerate(channel_mult))):
            attends = shape[1] >> level in attention
            if level < len(channel_mult) - 1:
                up.append(block(c, c, resample="up"))
            for i in range(num_blocks + 1):
                up.append(block(c + skips.pop(), channels * mult, attends and i == num_blocks))
                c = channels * mult
        self.up = nn.ModuleList(up)
        self.output_norm = GroupNorm(c)
        self.output = Conv(c, shape[0], gain=1e-5)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        c_noise: Float[Tensor, " b"],
        label: Int64[Tensor, " b"] | None = None,
        augment: Float[Tensor, "b a"] | None = None,
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """F(x; c_noise, label, augment, guidance), like x; x has about unit variance."""
        check_input("UNet", x, self.shape, self.multiple)
        embedding = self.conditioning(c_noise, label, augment, guidance)
        h = self.input(x)
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for block in self.up:
            if block.resample is None:
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, embedding)
        output: Tensor = self.output(tangent.silu(self.output_norm(h)))
        return output.to(x.dtype)


class Block(nn.Module):
    """Residual block: norm, silu, resample, conv; embedding; norm, silu, dropout, conv; attention, if heads > 0."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding_channels: int,
        norm: Norm,
        heads: int,
        qk_norm: bool,
        dropout: float,
        skip_scale: float,
        resample: Literal["up", "down"] | None,
    ):
        super().__init__()
        self.resample, self.skip_scale = resample, skip_scale
        self.norm0 = GroupNorm(c_in)
        self.conv0 = Conv(c_in, c_out)
        additive = norm == "additive"
        self.affine = Linear(embedding_channels, c_out) if additive else Modulation(embedding_channels, c_out, norm)
        self.norm1 = GroupNorm(c_out)
        self.dropout = Dropout(dropout)
        self.conv1 = Conv(c_out, c_out, gain=1e-5)
        self.skip = Conv(c_in, c_out, kernel=1) if c_in != c_out or resample else None
        if heads:
            self.norm2 = GroupNorm(c_out)
            self.attention = Attention(c_out, heads, qk_norm, gain_in=math.sqrt(0.2), gain_out=1e-5)
        self.attends = heads > 0

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b d h2 w2"]:
        y = self.conv0(self._resampled(tangent.silu(self.norm0(x))))
        if isinstance(self.affine, Modulation):
            scale, shift = self.affine.scale_and_shift(embedding)
            y = self.norm1(y)
            y = tangent.modulate(y, scale[..., None, None].to(y.dtype), shift[..., None, None].to(y.dtype))
        else:
            y = self.norm1(y + self.affine(embedding)[..., None, None].to(y.dtype))
        y = self.conv1(self.dropout(tangent.silu(y)))
        x = self._resampled(x)
        y = tangent.residual(x if self.skip is None else self.skip(x), y, self.skip_scale)
        if self.attends:
            tokens = self.norm2(y).flatten(2).transpose(1, 2)
            y = tangent.residual(y, self.attention(tokens).transpose(1, 2).unflatten(2, y.shape[2:]), self.skip_scale)
        return y

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resample == "up" else x
