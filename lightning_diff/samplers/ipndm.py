"""Improved PNDM: Adams and Bashforth's method with the weights of equal steps."""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Level, Noise, column, combined
from .solver import Node, OdeSolver, Reached, follow

ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def step(
    denoise: Denoise,
    node: Node,
    sigma_next: Level,
    past: Sequence[Node] = (),
    left: int | None = None,
    *,
    order: int = 4,
) -> Reached:
    """The slope continued from the last `order` nodes by the weights for equal steps, whatever the steps are, as published."""
    slopes = [known.slope for known in (node, *past)][:order]
    slope = combined(ADAMS_BASHFORTH[len(slopes)], slopes)
    return Reached(node.x + column(sigma_next - node.sigma, node.x) * slope)


def ipndm(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " nodes"],
    *,
    generator: Noise = None,
    order: int = 4,
) -> Float[Tensor, "b ..."]:
    """Improved PNDM (arXiv 2204.13902, section 3.3): Adams and Bashforth's method in sigma. n calls.

    Exact on an even grid, of order 2 on others. The first steps have a shorter past, and are of the order that it allows.
    Deterministic: `generator` is accepted, as by every sampler, and not used.

    Args:
        order: 1 (Euler's method) to 4.
    """
    if order not in ADAMS_BASHFORTH:
        raise ValueError(f"ipndm: order must be 1, 2, 3 or 4, got {order}")
    return follow(partial(step, order=order), denoise, x, sigmas, keeps=order - 1)


IPNDM = OdeSolver("ipndm", ipndm, step=step, order=2, keeps=3, two_step_order=2)
