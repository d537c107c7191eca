"""Jacobian-vector products through networks: value and tangent in one pass, and the layer functions that make it fast.

`jvp` runs a function once in forward mode. Its value keeps its autograd graph; its tangent has none, as consistency
training wants it (sCM, arXiv 2410.11081, puts a stop-gradient on the tangent).

Torch's own forward mode runs three convolutions for one (the third for a zero weight tangent), has no rule for fused
attention, takes group norm through slow primitives, and records the tangent for a backward pass that never comes. So
networks here call the functions of this file, and each of them runs in one of three ways:

    native   no forward mode: torch's fastest kernel.
    carry    inside `jvp`: the value as in native, from the primal alone; the tangent beside it, without a graph. Where
             a Jacobian is symmetric (normalisation, softmax, activations), torch's backward kernel is the rule. Under
             torch.compile, too: what is written out here is traced, where rules of an autograd.Function would be lost.
    plain    inside anybody else's forward mode (torch.func.jvp, dual_level): elementary operations that torch
             differentiates in every mode and to every order.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

_Mode = Literal["native", "carry", "plain"]
_aten = torch.ops.aten
_requested: _Mode = "native"


def jvp(
    fn: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Float[Tensor, "*out"], Float[Tensor, "*out"]]:
    """fn(*primals), and its derivative along `tangents`, in one pass.

    Args:
        fn: takes as many tensors as there are primals and returns one tensor. What it closes over (weights, labels) is
            held constant.
        primals: floating-point tensors.
        tangents: one for each primal, of its shape.

    Returns:
        (output, tangent). With gradients enabled, output keeps its graph exactly as fn(*primals) would; tangent is
        detached, and float32 where the output is narrower. A random choice inside fn (dropout) is one choice, shared by
        both. Compiled parts of fn run eagerly: torch has no forward mode through a finished graph. Compile a function
        that calls `jvp` instead.

    Raises:
        ValueError: a missing tangent, or one of another shape; an output on which no primal acts.
        TypeError: fn returned something other than one tensor.
    """
    if len(primals) != len(tangents):
        raise ValueError(f"jvp: {len(primals)} primals need as many tangents, got {len(tangents)}")
    for i, (primal, tangent) in enumerate(zip(primals, tangents, strict=True)):
        if primal.shape != tangent.shape:
            raise ValueError(
                f"jvp: primal {i} is {tuple(primal.shape)}, its tangent {tuple(tangent.shape)}; make them equal"
            )
    tangents = [tangent.detach().to(primal.dtype) for primal, tangent in zip(primals, tangents, strict=True)]
    global _requested
    before, _requested = _requested, "carry"
    try:
        output, tangent = (_traced if torch.compiler.is_compiling() else _carried)(fn, primals, tangents)
    finally:
        _requested = before
    return output, _at_least_float32(tangent.detach())


def mode() -> _Mode:
    """How the functions below run at this moment; a layer of your own may ask too."""
    if _requested == "native" and forward_ad._current_level >= 0:  # torch.func.jvp enters a dual level as well
        return "plain"
    return _requested


def _traced(fn: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = torch.func.jvp(fn, tuple(primals), tuple(tangents))  # type: ignore[assignment]
    return result


def _carried(fn: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    with torch.compiler.set_stance("force_eager"), forward_ad.dual_level():
        duals = [forward_ad.make_dual(primal, tangent) for primal, tangent in zip(primals, tangents, strict=True)]
        result = fn(*duals)
        if not isinstance(result, Tensor):
            raise TypeError(f"jvp: fn must return one tensor, it returned {type(result).__name__}")
        output, tangent = forward_ad.unpack_dual(result)
    if tangent is None:
        raise ValueError("jvp: fn's output has no tangent: it does not depend on the primals, or fn detaches them")
    return output, tangent


def conv2d(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "d c kh kw"],
    bias: Float[Tensor, " d"] | None = None,
    padding: int = 0,
) -> Float[Tensor, "b d h2 w2"]:
    """`torch.nn.functional.conv2d` with stride 1; its tangent costs one convolution."""
    return _bilinear(lambda x, w, b: F.conv2d(x, w, b, padding=padding), x, weight, bias)


def linear(
    x: Float[Tensor, "*b c"], weight: Float[Tensor, "d c"], bias: Float[Tensor, " d"] | None = None
) -> Float[Tensor, "*b d"]:
    """`torch.nn.functional.linear`."""
    return _bilinear(F.linear, x, weight, bias)


def silu(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """x * sigmoid(x)."""
    return _elementwise(F.silu, _aten.silu_backward, x)


def gelu(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """GELU in its tanh form."""
    return _elementwise(
        lambda x: F.gelu(x, approximate="tanh"), lambda t, x: _aten.gelu_backward(t, x, approximate="tanh"), x
    )


def dropout(x: Float[Tensor, "*b"], p: float, training: bool) -> Float[Tensor, "*b"]:
    """`torch.nn.functional.dropout`, with its random numbers; the tangent has the value's mask."""
    if mode() != "carry" or not training or p == 0:
        return F.dropout(x, p, training)
    x, dx = forward_ad.unpack_dual(x)
    if x.device.type == "cpu":  # what each device's F.dropout does
        scale = torch.empty_like(x).bernoulli_(1 - p).div_(1 - p)
        y = x * scale
    else:
        y, mask = torch.native_dropout(x, p, True)
        scale = mask / (1 - p)
    return _dual(y, None if dx is None else dx * scale)


def modulate(x: Float[Tensor, "..."], scale: Float[Tensor, "..."], shift: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x * scale + shift, broadcast."""
    if mode() != "carry":
        return torch.addcmul(shift, x, scale)
    (x, dx), (scale, dscale), (shift, dshift) = (forward_ad.unpack_dual(each) for each in (x, scale, shift))
    y = torch.addcmul(shift, x, scale)
    with torch.no_grad():
        dy = dshift
        if dx is not None:
            dy = dx * scale if dy is None else torch.addcmul(dy, dx, scale)
        if dscale is not None:
            dy = x * dscale if dy is None else torch.addcmul(dy, x, dscale)
        if dy is not None:
            dy = dy.expand_as(y)
    return _dual(y, dy)


def residual(x: Float[Tensor, "*b"], y: Float[Tensor, "*b"], scale: float) -> Float[Tensor, "*b"]:
    """(x + y) * scale."""
    if mode() != "carry":
        return torch.add(x, y).mul_(scale)
    (x, dx), (y, dy) = forward_ad.unpack_dual(x), forward_ad.unpack_dual(y)
    total = torch.add(x, y).mul_(scale)
    if dx is None and dy is None:
        return total
    with torch.no_grad():
        dx, dy = (torch.zeros_like(total) if d is None else d for d in (dx, dy))
        dtotal = torch.add(dx, dy).mul_(scale)
    return _dual(total, dtotal)


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
    return _dual(y.to(x.dtype), dy)


def group_norm(
    x: Float[Tensor, "b c *hw"], groups: int, weight: Float[Tensor, " c"], bias: Float[Tensor, " c"], eps: float
) -> Float[Tensor, "b c *hw"]:
    """`torch.nn.functional.group_norm`; statistics in float32 or wider, result in x's dtype under autocast too."""
    how = mode()
    if how == "plain":
        rows = _at_least_float32(x).reshape(x.shape[0], groups, -1)
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
            wide = _at_least_float32(x)
            stats = mean.to(wide.dtype), rstd.to(wide.dtype)
            dx = dx.to(wide.dtype).contiguous(memory_format=layout)
            dx_hat = _aten.native_group_norm_backward(dx, wide, *stats, None, *sizes, [True, False, False])[0]
            dy = dx_hat.mul_(weight.reshape(column))
        if dweight is not None:
            dy = _plus(dy, torch.native_group_norm(x, None, None, *sizes, eps)[0] * dweight.reshape(column))
        if dbias is not None:
            dy = _plus(dy, dbias.reshape(column).expand(x.shape))
    return _dual(y, dy)


def layer_norm(x: Float[Tensor, "*b c"], eps: float = 1e-6) -> Float[Tensor, "*b c"]:
    """Mean 0 and variance 1 over the last axis, without learned scale, in float32 or wider."""
    if mode() != "carry":  # torch differentiates its layer norm in every mode
        return F.layer_norm(_at_least_float32(x), x.shape[-1:], eps=eps)
    x, dx = forward_ad.unpack_dual(x)
    x = _at_least_float32(x)
    y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
    if dx is None:
        return y
    with torch.no_grad():
        flags = [True, False, False]
        dy = _aten.native_layer_norm_backward(dx.to(x.dtype), x, x.shape[-1:], mean, rstd, None, None, flags)[0]
    return _dual(y, dy)


def attention(
    q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads m d"], v: Float[Tensor, "b heads m d"]
) -> Float[Tensor, "b heads n d"]:
    """softmax(q k^T / sqrt(d)) v. The fused kernel stores no (n, m) matrix; a tangent needs some while it lasts."""
    how = mode()
    if how == "native":
        return F.scaled_dot_product_attention(q, k, v)
    scale = q.shape[-1] ** -0.5
    if how == "plain":
        return torch.softmax((q * scale) @ k.transpose(-2, -1), -1).to(v.dtype) @ v
    shape = q.shape
    (q, dq), (k, dk), (v, dv) = (forward_ad.unpack_dual(each) for each in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v)
    if dq is None and dk is None and dv is None:
        return y
    with torch.no_grad():
        dq, dk, dv = (
            torch.zeros_like(each) if d is None else d.to(each.dtype) for each, d in ((q, dq), (k, dk), (v, dv))
        )
        q, dq = (scale * each.flatten(0, 1) for each in (q, dq))
        k, dk = (each.flatten(0, 1).mT for each in (k, dk))
        v, dv = (each.flatten(0, 1) for each in (v, dv))
        p = torch.softmax(_at_least_float32(q @ k), -1)
        ds = _at_least_float32(torch.baddbmm(q @ dk, dq, k))
        dp = torch._softmax_backward_data(ds, p, -1, p.dtype)
        dy = torch.baddbmm(p.to(v.dtype) @ dv, dp.to(v.dtype), v).reshape(shape)
    return _dual(y, dy)


def _bilinear(
    op: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """op(x, weight) + bias, with one more `op` for each of x and weight that has a tangent."""
    if mode() != "carry":
        return op(x, weight, bias)
    (x, dx), (weight, dweight) = forward_ad.unpack_dual(x), forward_ad.unpack_dual(weight)
    bias, dbias = (None, None) if bias is None else forward_ad.unpack_dual(bias)
    y = op(x, weight, bias)
    with torch.no_grad():
        dy = None
        if dx is not None:
            dy = op(dx, weight, None)
        if dweight is not None:
            dy = _plus(dy, op(x, dweight, None))
        if dbias is not None:
            dy = _plus(dy, op(torch.zeros_like(x), weight, dbias))
    return _dual(y, dy)


def _elementwise(op: Callable[[Tensor], Tensor], backward: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    if mode() != "carry":
        return op(x)
    x, dx = forward_ad.unpack_dual(x)
    y = op(x)
    if dx is None:
        return y
    with torch.no_grad():
        dy = backward(dx.to(x.dtype), x)
    return _dual(y, dy)


def _pixel_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = _at_least_float32(x)
    inverse = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return wide * inverse, inverse


def _dual(y: Tensor, dy: Tensor | None) -> Tensor:
    return y if dy is None else forward_ad.make_dual(y, dy.to(y.dtype))


def _plus(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
