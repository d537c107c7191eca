"""What one step of a solver loses: its own local error, against a fine solution of the same stretch of the trajectory.

ART's cost is Euler's error, h^2 / 2 |Q| (see `monitor`), whatever solver the grid is for. A solver of order p loses C h^(p+1) with
another C, large at other noise levels; and a step of a grid of five is too long for either formula. Here the step is taken.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..samplers import Denoise, Node, ode_solver
from ..samplers.stepwise import Sigma, step


class Step(NamedTuple):
    """One step from (x, sigma) to sigma_next.

    Args:
        exact: (B, ...), where the ODE takes x, by the fine solver.
        taken: (B, ...), where one step of the solver takes it.
        error: (B,), the Euclidean norm of the difference.
        node: where it started, which is the past of a step from `exact`.
    """

    exact: Tensor
    taken: Tensor
    error: Float[Tensor, " b"]
    node: Node


def local_error(
    denoise: Denoise,
    x: Float[Tensor, "b *s"],
    sigma: Sigma,
    sigma_next: Sigma,
    solver: str = "heun",
    *,
    past: Sequence[Node] = (),
    left: int | None = None,
    substeps: int = 4,
    denoised: Float[Tensor, "b *s"] | None = None,
) -> Step:
    """What the solver loses between two noise levels, for samples that were on their exact trajectories until now.

    Args:
        denoise: callable (x, sigma) -> x0.
        x: samples at noise level sigma.
        sigma, sigma_next: sigma > sigma_next >= 0, one for all or one for each.
        solver: a name in `samplers.ODE_SOLVERS`.
        past: the nodes before on the exact trajectories, the newest first, for multistep solvers: as many as the sampler would
            have for its very step, or one for its two-step form, of order `two_step_order`; without any they take their first step.
        left: steps to 0, this one included, if it is known.
        substeps: Heun steps of the fine solution, even in sigma^(1/3); two calls each.
        denoised: D(x; sigma), if it is known.

    Raises:
        UserError: an unknown solver.
        ValueError: less than one substep.
    """
    own = ode_solver(solver)
    node = Node(sigma, x, denoise(x, sigma.to(x.dtype)) if denoised is None else denoised)
    taken = step(own, denoise, node, sigma_next, past, left).x
    exact = reference(denoise, x, sigma, sigma_next, substeps, denoised=node.denoised)
    return Step(exact, taken, (taken - exact).flatten(1).norm(dim=1), node)


def reference(
    denoise: Denoise,
    x: Float[Tensor, "b *s"],
    sigma: Sigma,
    sigma_next: Sigma,
    substeps: int = 4,
    *,
    denoised: Float[Tensor, "b *s"] | None = None,
) -> Float[Tensor, "b *s"]:
    """x at sigma_next by that many Heun steps. Arguments as for `local_error`; `denoised` is D(x; sigma) if it is known."""
    if substeps < 1:
        raise ValueError(f"reference: need at least one substep, got {substeps}")
    start, end = sigma ** (1 / 3), sigma_next ** (1 / 3)
    levels = [sigma, *((start + (end - start) * k / substeps) ** 3 for k in range(1, substeps)), sigma_next]
    for level, level_next in pairwise(levels):
        x = heun_step(denoise, x, level, level_next, denoised=denoised)
        denoised = None
    return x


def heun_step(
    denoise: Denoise,
    x: Float[Tensor, "b *s"],
    sigma: Sigma,
    sigma_next: Sigma,
    *,
    denoised: Float[Tensor, "b *s"] | None = None,
) -> Float[Tensor, "b *s"]:
    """x at sigma_next by one step of Heun's method; `denoised` is D(x; sigma) if it is known."""
    D = denoise(x, sigma.to(x.dtype)) if denoised is None else denoised
    return step(ode_solver("heun"), denoise, Node(sigma, x, D), sigma_next).x
