"""Functions of each element: activations, clamping, dropout, modulation, residual sums."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from .forward_mode import dual, mode

_aten = torch.ops.aten


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
    return dual(y, None if dx is None else dx * scale)


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
    return dual(y, dy)


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
    return dual(total, dtotal)


def clamp(x: Float[Tensor, "*b"], low: float, high: float) -> Float[Tensor, "*b"]:
    """x.clamp(low, high) with its own tangent, 0 outside, and a gradient that passes straight through (arXiv 1308.3432).

    A loss whose targets lie in [low, high] then pulls an element from outside back in, where the clamp's own gradient would be 0.
    """
    if mode() == "plain":
        return x.clamp(low, high)
    x, dx = forward_ad.unpack_dual(x) if mode() == "carry" else (x, None)
    value = x.detach()
    clamped = value.clamp(low, high)
    y = clamped + (x - value)
    return dual(y, None if dx is None else dx * (clamped == value))


def _elementwise(op: Callable[[Tensor], Tensor], backward: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    if mode() != "carry":
        return op(x)
    x, dx = forward_ad.unpack_dual(x)
    y = op(x)
    if dx is None:
        return y
    with torch.no_grad():
        dy = backward(dx.to(x.dtype), x)
    return dual(y, dy)
