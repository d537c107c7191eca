"""Functions that are linear in their input and in their weight."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from .forward_mode import dual, mode, plus


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
            dy = plus(dy, op(x, dweight, None))
        if dbias is not None:
            dy = plus(dy, op(torch.zeros_like(x), weight, dbias))
    return dual(y, dy)
