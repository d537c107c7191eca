"""Euler's method, which is DDIM in these coordinates."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Level, Noise, combined
from .solver import Node, OdeSolver, Reached, follow


def step(
    denoise: Denoise, node: Node, sigma_next: Level, past: Sequence[Node] = (), left: int | None = None
) -> Reached:
    """x + (sigma_next - sigma) (x - D) / sigma, written as a convex combination: nothing cancels."""
    ratio = sigma_next / node.sigma
    return Reached(combined([ratio, 1 - ratio], [node.x, node.denoised]))


def euler(
    denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Float[Tensor, " nodes"], *, generator: Noise = None
) -> Float[Tensor, "b ..."]:
    """Euler's method, which is DDIM in these coordinates (arXiv 2206.00364, alg. 1 without its correction).

    Order 1, n calls. Deterministic: `generator` is accepted, as by every sampler, and not used.
    """
    return follow(step, denoise, x, sigmas)


EULER = OdeSolver("euler", euler, step=step, order=1, two_step_order=1)
