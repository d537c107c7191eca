"""Number formats, exact to the bit in software: NVFP4, row-wise FP8 (E4M3) and row-wise int8.

    E2M1   sign, 2 bits of exponent, 1 of mantissa: ±{0, 0.5, 1, 1.5, 2, 3, 4, 6}
    E4M3   "fn": no infinities, largest 448, smallest normal 2^-6
    NVFP4  E2M1 values in blocks of 16 along the last axis, an E4M3 scale for each block, a float32 scale for the tensor

Rounding is to nearest, ties to even, and saturates. Everything is computed in float32, as the kernels do, and returned in the
dtype that was given.
"""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

BLOCK = 16
E2M1_MAX, E4M3_MAX, E4M3_TINY, INT8_MAX = 6.0, 448.0, 2.0**-6, 127.0


def e2m1_round(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The nearest E2M1 value; beyond ±6, ±6."""
    wide = x.float().clamp(-E2M1_MAX, E2M1_MAX)
    power = (wide.view(torch.int32) & 0x7F800000).view(
        torch.float32
    )  # of two, at or below |x|: the exponent's bits alone
    step = power.clamp_(1, 4).mul_(0.5)
    return (wide / step).round_().mul_(step).to(x.dtype)


def e4m3_round(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The nearest E4M3 value; beyond ±448, ±448."""
    return x.float().clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(x.dtype)


def nvfp4_round(x: Float[Tensor, "*b k"], amax: Float[Tensor, "..."] | None = None) -> Float[Tensor, "*b k"]:
    """x as NVFP4 holds it, in blocks of 16 along the last axis.

        s = amax / (448 * 6)                                        float32, for the tensor
        s_b = E4M3(clip(amax_b / 6 / s, 2^-6, 448))                 for the block
        result = E2M1(clip(x (1 / s) / s_b, -6, 6)) (s s_b)

    Bit for bit what torchao's `NVFP4Tensor` gives, whose kernels clamp s_b from below at E4M3's smallest normal number. The last
    block may be shorter than 16. What was rounded stays when it is rounded again, up to the last bit of s.

    Args:
        x: finite values.
        amax: the largest magnitude that s is for, broadcast against x. None: of all of x. Zeros give zeros.
    """
    wide = x.float()
    amax = (wide.abs().amax() if amax is None else amax.float()) if x.numel() else wide.new_zeros(())
    scale = amax / (E4M3_MAX * E2M1_MAX)
    scale = torch.where(scale > 0, scale, 1.0)  # of zeros, which stay zeros
    k = x.shape[-1]
    blocks: Tensor = torch.nn.functional.pad(wide, (0, -k % BLOCK)).unflatten(-1, (-1, BLOCK))
    scale = scale[..., None] if scale.ndim else scale
    block = (blocks.abs().amax(-1, keepdim=True) / E2M1_MAX / scale).clamp(E4M3_TINY, E4M3_MAX)
    block = block.to(torch.float8_e4m3fn).float()
    codes = e2m1_round(blocks * ((1.0 / scale) / block))
    return (codes * (scale * block)).flatten(-2)[..., :k].to(x.dtype)


def fp8_quantise(
    x: Float[Tensor, "*b"], amax: Float[Tensor, "..."]
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "..."]]:
    """x / scale as float8_e4m3fn, and scale = amax / 448, float32, in amax's shape; amax broadcasts against x."""
    scale = _scale(amax, E4M3_MAX)
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale


def int8_quantise(
    x: Float[Tensor, "*b"], amax: Float[Tensor, "..."]
) -> tuple[Int8[Tensor, "*b"], Float[Tensor, "..."]]:
    """round(x / scale) as int8 in -127..127, and scale = amax / 127, float32, in amax's shape; amax broadcasts against x."""
    scale = _scale(amax, INT8_MAX)
    return (x.float() / scale).round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8), scale


def fp8_round(x: Float[Tensor, "*b k"], amax: Float[Tensor, "..."] | None = None) -> Float[Tensor, "*b k"]:
    """x as row-wise FP8 holds it: E4M3 with one float32 scale for each row along the last axis.

    Args:
        amax: the largest magnitudes that the scales are for, broadcast against x. None: of each row.
    """
    codes, scale = fp8_quantise(x, row_amax(x) if amax is None else amax)
    return (codes.float() * scale).to(x.dtype)


def int8_round(x: Float[Tensor, "*b k"], amax: Float[Tensor, "..."] | None = None) -> Float[Tensor, "*b k"]:
    """x as symmetric row-wise int8 holds it: one float32 scale for each row along the last axis (see `fp8_round`)."""
    codes, scale = int8_quantise(x, row_amax(x) if amax is None else amax)
    return (codes.float() * scale).to(x.dtype)


def row_amax(x: Float[Tensor, "*b k"]) -> Float[Tensor, "*b 1"]:
    """The largest magnitude of each row, float32."""
    return x.abs().amax(-1, keepdim=True).float()


def sample_amax(x: Float[Tensor, "b *s"]) -> Float[Tensor, "b *ones"]:
    """The largest magnitude of each sample, float32, shaped to broadcast against x."""
    return x.flatten(1).abs().amax(1).float().reshape(-1, *[1] * (x.ndim - 1))


def _scale(amax: Tensor, largest: float) -> Tensor:
    amax = amax.float()
    return torch.where(amax > 0, amax / largest, 1.0)
