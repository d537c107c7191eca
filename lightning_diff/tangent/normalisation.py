"""Group, layer and pixel norm."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from .forward_mode import at_least_float32, dual, mode, plus

_aten = torch.ops.aten


def pixel_norm(x: Float[Tensor, "*b c"], eps: float = 1e-8) -> Float[Tensor, "*b c"]:
    """x / sqrt(mean x^2 + eps) over the last axis, in float32 or wider: pnorm of sCM's double normalisation."""
    if mode() != "carry":
        return _pixel_norm(x, eps)[0].to(x.dtype)
    x, dx = forward_ad.unpack_dual(x)
    y, inverse = _pixel_norm(x, eps)
    if dx is None:
        return y.to(x.dtype)
    with torch.no_grad():
        dx = dx.to(y.dtype)
        dy = (dx - y * (y * dx).mean(-1, keepdim=True)) * inverse
    return dual(y.to(x.dtype), dy)


def unit_rms(x: Float[Tensor, "..."], dim: int, eps: float = 1e-4) -> Float[Tensor, "..."]:
    """x / (eps + sqrt(mean x^2)) over one axis, in float32 or wider: the pixel norm of EDM2 (arXiv 2312.02696, eq. 30)."""
    if mode() != "carry":
        wide = at_least_float32(x)
        return (wide / (eps + _rms(wide, dim))).to(x.dtype)
    x, dx = forward_ad.unpack_dual(x)
    wide = at_least_float32(x)
    rms = _rms(wide, dim)
    y = wide / (eps + rms)
    if dx is None:
        return y.to(x.dtype)
    with torch.no_grad():
        dx = dx.to(y.dtype)
        drms = (wide * dx).mean(dim, keepdim=True) / rms.clamp_min(torch.finfo(rms.dtype).tiny)
        dy = (dx - y * drms) / (eps + rms)
    return dual(y.to(x.dtype), dy)


def group_norm(
    x: Float[Tensor, "b c *hw"], groups: int, weight: Float[Tensor, " c"], bias: Float[Tensor, " c"], eps: float
) -> Float[Tensor, "b c *hw"]:
    """`torch.nn.functional.group_norm`; statistics in float32 or wider, result in x's dtype under autocast too."""
    how = mode()
    if how == "plain":
        rows = at_least_float32(x).reshape(x.shape[0], groups, -1)
        variance, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
        x_hat = ((rows - mean) * (variance + eps).rsqrt()).reshape(x.shape)
        column = (-1, *[1] * (x.ndim - 2))
        return (x_hat * weight.reshape(column) + bias.reshape(column)).to(x.dtype)
    if x.device.type != "cpu":  # the other kernels want one dtype; they accumulate in float32 all the same
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if how == "native":
        if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):  # which would return float32, twice the memory
                return F.group_norm(x, groups, weight, bias, eps)
        return F.group_norm(x, groups, weight, bias, eps)

    (x, dx), (weight, dweight), (bias, dbias) = (forward_ad.unpack_dual(each) for each in (x, weight, bias))
    on_cpu = x.device.type == "cpu"  # the one kernel here that takes channels-last
    layout = torch.channels_last if on_cpu and _is_channels_last(x) else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    sizes = (x.shape[0], x.shape[1], x[0, 0].numel(), groups)
    y, mean, rstd = torch.native_group_norm(x, weight, bias, *sizes, eps)
    with torch.no_grad():
        dy, column = None, (-1, *[1] * (x.ndim - 2))
        if dx is not None:
            wide = at_least_float32(x)
            stats = mean.to(wide.dtype), rstd.to(wide.dtype)
            dx = dx.to(wide.dtype).contiguous(memory_format=layout)
            dx_hat = _aten.native_group_norm_backward(dx, wide, *stats, None, *sizes, [True, False, False])[0]
            dy = dx_hat.mul_(weight.reshape(column))
        if dweight is not None:
            dy = plus(dy, torch.native_group_norm(x, None, None, *sizes, eps)[0] * dweight.reshape(column))
        if dbias is not None:
            dy = plus(dy, dbias.reshape(column).expand(x.shape))
    return dual(y, dy)


def layer_norm(x: Float[Tensor, "*b c"], eps: float = 1e-6) -> Float[Tensor, "*b c"]:
    """Mean 0 and variance 1 over the last axis, without learned scale, in float32 or wider."""
    if mode() != "carry":  # torch differentiates its layer norm in every mode
        return F.layer_norm(at_least_float32(x), x.shape[-1:], eps=eps)
    x, dx = forward_ad.unpack_dual(x)
    x = at_least_float32(x)
    y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
    if dx is None:
        return y
    with torch.no_grad():
        flags = [True, False, False]
        dy = _aten.native_layer_norm_backward(dx.to(x.dtype), x, x.shape[-1:], mean, rstd, None, None, flags)[0]
    return dual(y, dy)


def _rms(x: Tensor, dim: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return length / math.sqrt(x.shape[dim])


def _pixel_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = at_least_float32(x)
    inverse = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return wide * inverse, inverse


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
