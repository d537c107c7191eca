"""Value and tangent in one pass, and how a layer function is to run at this moment."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

_Mode = Literal["native", "carry", "plain"]
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
    return output, at_least_float32(tangent.detach())


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


def dual(y: Tensor, dy: Tensor | None) -> Tensor:
    return y if dy is None else forward_ad.make_dual(y, dy.to(y.dtype))


def plus(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
