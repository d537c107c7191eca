"""Layers that the networks share, built on the functions of `tangent`, so that forward mode is right and fast.

Initialisation is EDM's: uniform with Xavier's variance times `gain` squared, biases zero.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .. import tangent

Norm = Literal["additive", "adaptive", "double"]


class Linear(nn.Linear):
    """Fully connected layer over the last axis; `gain` scales the initial weights."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, gain: float = 1.0):
        super().__init__(in_features, out_features, bias)
        _initialise(self.weight, self.bias, gain)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:
        return tangent.linear(x, self.weight, self.bias)


class Conv(nn.Conv2d):
    """Convolution that keeps height and width: stride 1, odd kernel; `gain` scales the initial weights."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, gain: float = 1.0):
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)
        _initialise(self.weight, self.bias, gain)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return tangent.conv2d(x, self.weight, self.bias, padding=self.kernel_size[0] // 2)


def _initialise(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    nn.init.xavier_uniform_(weight, gain)
    if bias is not None:
        nn.init.zeros_(bias)


class Dropout(nn.Dropout):
    """Zeroes entries with probability p while training, and scales the rest by 1 / (1 - p)."""

    def forward(self, x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return tangent.dropout(x, self.p, self.training)


class GroupNorm(nn.Module):
    """Group norm of at most 32 groups of at least 4 channels: the most that divide the channels."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.groups = next(n for n in range(max(1, min(32, channels // 4)), 0, -1) if channels % n == 0)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c *hw"]) -> Float[Tensor, "b c *hw"]:
        return tangent.group_norm(x, self.groups, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Self-attention over tokens, with a residual branch's output and no residual.

    Args:
        width: channels of a token; divisible by heads.
        heads: attention heads.
        qk_norm: give every query and key of a head mean square 1, as EDM2 does (arXiv 2312.02696), so that no
            logit grows beyond sqrt(width / heads).
        gain_in, gain_out: gains of the initial weights.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False, gain_in: float = 1.0, gain_out: float = 1.0):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"Attention: heads must divide the {width} channels, got {heads}")
        self.heads, self.qk_norm = heads, qk_norm
        self.qkv = Linear(width, 3 * width, gain=gain_in)
        self.proj = Linear(width, width, gain=gain_out)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.qk_norm:
            q, k = tangent.pixel_norm(q), tangent.pixel_norm(k)
        output: Tensor = self.proj(tangent.attention(q, k, v).transpose(1, 2).flatten(2))
        return output


class PositionalEmbedding(nn.Module):
    """[sin, cos] of c_noise at frequencies 10000^(-k / (n - 1)), k = 0..n-1: at most one radian per unit of c_noise.

    So smooth that its derivative stays small (sCM, arXiv 2410.11081, section 4.1); never multiply c_noise by 1000.
    """

    def __init__(self, channels: int):
        super().__init__()
        _check_even(channels)
        self.channels = channels

    def forward(self, c_noise: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        n = self.channels // 2
        k = torch.arange(n, dtype=c_noise.dtype, device=c_noise.device)
        return _sin_cos(c_noise, 1e-4 ** (k / max(n - 1, 1)))


class FourierEmbedding(nn.Module):
    """[sin, cos] of c_noise at fixed random frequencies 2 pi N(0, scale^2). NCSN++: scale 16; EDM2: 1."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0):
        super().__init__()
        _check_even(channels)
        self.register_buffer("freqs", torch.randn(channels // 2) * scale)

    def forward(self, c_noise: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        return _sin_cos(c_noise, 2 * math.pi * self.freqs.to(c_noise.dtype))


def _check_even(channels: int) -> None:
    if channels < 2 or channels % 2:
        raise ValueError(f"a noise embedding has as many sines as cosines: its channels must be even, got {channels}")


def _sin_cos(c_noise: Float[Tensor, " b"], freqs: Float[Tensor, " n"]) -> Float[Tensor, "b n2"]:
    angle = c_noise[:, None] * freqs
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Conditioning(nn.Module):
    """Noise level, label and augmentation vector -> one embedding, in float32 or wider, whatever autocast says.

    Args:
        channels: of the noise embedding; label and augmentation are added to it.
        out_channels: of the result.
        num_classes: labels are 0..num_classes-1; num_classes itself, or no labels at all, means "no label" and adds the
            bias alone. With 0 classes the network is unconditional and ignores labels.
        augment_dim: length of the augmentation vector. None stands for zeros, and the layer runs all the same: a weight without
            a gradient would stop DDP. With 0 the network has no such input, and a vector is refused.
        embedding: "positional" (DDPM++) or "fourier" (NCSN++).
        fourier_scale: standard deviation of the Fourier frequencies, in periods per unit of c_noise.
        guided: there is an input for the scale of classifier-free guidance, for consistency models that are distilled from a
            guided teacher (sCM, arXiv 2410.11081): a positional embedding and a linear layer, added to the noise embedding. The
            layer starts at 0, so that the network starts as the one without the input. None stands for scale 1.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        num_classes: int = 0,
        augment_dim: int = 0,
        embedding: Literal["positional", "fourier"] = "positional",
        fourier_scale: float = 16.0,
        guided: bool = False,
    ):
        super().__init__()
        if embedding not in ("positional", "fourier"):
            raise ValueError(f"embedding must be positional or fourier, got {embedding!r}")
        if num_classes < 0 or augment_dim < 0:
            raise ValueError(f"num_classes and augment_dim must not be negative, got {num_classes} and {augment_dim}")
        self.num_classes = num_classes
        self.noise = (
            PositionalEmbedding(channels) if embedding == "positional" else FourierEmbedding(channels, fourier_scale)
        )
        self.label = Linear(num_classes, channels) if num_classes else None
        self.augment = Linear(augment_dim, channels, bias=False) if augment_dim else None
        self.guidance = _Guidance(channels) if guided else None
        self.layer0 = Linear(channels, out_channels)
        self.layer1 = Linear(out_channels, out_channels)

    def forward(
        self,
        c_noise: Float[Tensor, " b"],
        label: Int64[Tensor, " b"] | None = None,
        augment: Float[Tensor, "b a"] | None = None,
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c"]:
        if guidance is not None and self.guidance is None:
            raise ValueError("this network has no input for a guidance scale; build it with guided=True")
        if augment is not None and self.augment is None:
            raise ValueError(
                f"this network has no input for an augmentation vector; build it with augment_dim={augment.shape[1]}"
            )
        dtype = self.layer0.weight.dtype
        with torch.autocast(c_noise.device.type, enabled=False):
            embedding = self.noise(c_noise.to(torch.promote_types(dtype, torch.float32))).to(dtype)
            if self.label is not None:
                embedding = embedding + self.label(self._one_hot(c_noise, label).to(dtype))
            if self.augment is not None:
                vector = c_noise.new_zeros(len(c_noise), self.augment.in_features) if augment is None else augment
                embedding = embedding + self.augment(vector.to(dtype))
            if self.guidance is not None:
                scale = torch.ones_like(c_noise) if guidance is None else guidance.to(c_noise.dtype)
                embedding = embedding + self.guidance(scale).to(dtype)
            return tangent.silu(self.layer1(tangent.silu(self.layer0(embedding))))

    def _one_hot(self, c_noise: Tensor, label: Int64[Tensor, " b"] | None) -> Float[Tensor, "b k"]:
        """Rows of length sqrt(num_classes), so that an entry has mean square 1; zero for "no label"."""
        if label is None:
            return c_noise.new_zeros(c_noise.shape[0], self.num_classes)
        return F.one_hot(label, self.num_classes + 1)[:, :-1] * math.sqrt(self.num_classes)


class _Guidance(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.embedding = PositionalEmbedding(channels)
        self.linear = Linear(channels, channels, bias=False, gain=0.0)

    def forward(self, scale: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        output: Tensor = self.linear(self.embedding(scale).to(self.linear.weight.dtype))
        return output


class Modulation(nn.Module):
    """What the embedding does to a normalised activation.

    "adaptive": y = norm(x) (1 + s) + b with (s, b) linear in the embedding (ADM's adaptive_scale; DiT's adaLN).
    "double":   y = norm(x) pnorm(s) + pnorm(b), pnorm(v) = v / sqrt(mean v^2 + 1e-8): sCM's adaptive double
                normalisation (arXiv 2410.11081, section 4.1), which bounds both. Never zero-initialised: there pnorm
                has slope 1e4.
    """

    def __init__(self, embedding_channels: int, channels: int, norm: Norm, gain: float = 1.0):
        super().__init__()
        if norm not in ("adaptive", "double"):
            raise ValueError(f"norm must be adaptive or double here, got {norm!r}")
        self.pixel_norm = norm == "double"
        self.affine = Linear(embedding_channels, 2 * channels, gain=1.0 if self.pixel_norm else gain)

    def forward(self, x: Float[Tensor, "b *n c"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b *n c"]:
        """x: normalised, channels last."""
        scale, shift = self.scale_and_shift(embedding)
        shape = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
        return tangent.modulate(x, scale.reshape(shape), shift.reshape(shape))

    def scale_and_shift(self, embedding: Float[Tensor, "b e"]) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        scale, shift = self.affine(embedding).chunk(2, dim=1)
        return (tangent.pixel_norm(scale), tangent.pixel_norm(shift)) if self.pixel_norm else (1 + scale, shift)


def check_input(name: str, x: Tensor, shape: Sequence[int], multiple: int | None = None) -> None:
    """A ValueError in words if x is no batch of `shape`; with `multiple`, its height and width may be any multiples of that."""
    found = tuple(x.shape[1:])
    if found == tuple(shape):
        return
    if multiple is None or len(found) != len(shape) or found[0] != shape[0]:
        raise ValueError(f"{name} was built for samples of shape {tuple(shape)}, got a batch of shape {tuple(x.shape)}")
    if any(side % multiple for side in found[1:]):
        raise ValueError(
            f"{name} takes heights and widths that are multiples of {multiple}, got {found[1]} and {found[2]}"
        )


def refuse_impossible_levels(name: str, shape: Sequence[int], channel_mult: Sequence[int], num_blocks: int) -> None:
    """ValueError for a U-Net without blocks, or examples that cannot be halved as often as it halves them."""
    if len(shape) != 3:
        raise ValueError(f"{name}: shape must be (channels, height, width), got {tuple(shape)}")
    if not channel_mult or num_blocks < 1:
        raise ValueError(
            f"{name}: needs a resolution and a block, got channel_mult={channel_mult}, num_blocks={num_blocks}"
        )
    factor = 2 ** (len(channel_mult) - 1)
    if shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"{name}: {len(channel_mult)} resolutions halve a picture {len(channel_mult) - 1} times, so height and "
            f"width must be divisible by {factor}, got {shape[1]}x{shape[2]}; shorten channel_mult"
        )
