"""DEIS: Adams and Bashforth's method with the weights of the steps at hand."""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Level, Noise, column, combined
from .solver import Node, OdeSolver, Reached, follow


def step(
    denoise: Denoise,
    node: Node,
    sigma_next: Level,
    past: Sequence[Node] = (),
    left: int | None = None,
    *,
    order: int = 3,
) -> Reached:
    """x + integral of P(s) ds from sigma to sigma_next, with P the polynomial through the last `order` slopes."""
    known = [node, *past][:order]
    h = sigma_next - node.sigma
    weights = integral_weights([(at.sigma - node.sigma) / h for at in known])
    return Reached(node.x + column(h, node.x) * combined(weights, [at.slope for at in known]))


def deis(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " nodes"],
    *,
    generator: Noise = None,
    order: int = 3,
) -> Float[Tensor, "b ..."]:
    """tAB-DEIS (arXiv 2204.13902, ingredient 3) in EDM's time, t = sigma. n calls.

    The paper's integrator solves the linear part of its ODE exactly, and puts a polynomial in t in place of the noise eps that the
    network predicts. With s(t) = 1 there is no linear part, dx/dsigma = eps, and with t = sigma its two polynomials, in t (tAB) and
    in the rescaled time rho (rhoAB), are one. `ipndm` is this with the weights of equal steps. The first steps have a shorter past,
    and are of the order that it allows. Deterministic: `generator` is accepted, as by every sampler, and not used.

    Args:
        order: 1 (Euler's method) to 3, the number of slopes: one more than the polynomial's degree, which is the paper's number.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"deis: order must be 1, 2 or 3, got {order}")
    return follow(partial(step, order=order), denoise, x, sigmas, keeps=order - 1)


def integral_weights(places: Sequence[Level]) -> list[Level]:
    """w with integral over u in (0, 1) of P(u) = sum_j w_j P(places_j), for polynomials P through one to three distinct places.

    places: the first one 0, in units of the step.
    """
    if len(places) == 1:
        return [1.0]
    a = places[1]
    if len(places) == 2:
        return [1 - 1 / (2 * a), 1 / (2 * a)]
    b = places[2]
    w_a, w_b = (1 / 3 - b / 2) / (a * (a - b)), (1 / 3 - a / 2) / (b * (b - a))
    return [1 - w_a - w_b, w_a, w_b]


DEIS = OdeSolver("deis", deis, step=step, order=3, keeps=2, two_step_order=2)
