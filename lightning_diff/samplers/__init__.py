"""Solvers of the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma (EDM, arXiv 2206.00364, eq. 1, s(t) = 1), and the
sampler of consistency models, whose output is the ODE's end.

A sampler is one pure function  solver(denoise, x, sigmas, *, generator=None, ...) -> x  to be compared with its paper
line by line:

    denoise    callable (x, sigma) -> estimate of x0, with sigma a scalar tensor () in x's dtype and on x's device
    x          (B, ...) at noise level sigmas[0]: x = sigmas[0] * eps
    sigmas     (n+1,) finite, strictly decreasing, the last one 0, float64 (see `schedules`): n steps
               (from infinity: `pure_noise.solve`, which `generate` calls)
               (where it requires gradients, the result has them: see `schedules.optimised`)
    generator  where fresh noise comes from, for the stochastic ones: a torch.Generator, or a callable (x, step) ->
               standard normal tensor like x (a pure function of its arguments keeps samples independent of the batch
               they are in), or None for torch's global state

Step sizes are Python floats, that is float64. x stays in its own dtype. EDM steps in float64; for a float32 network
that changes samples by 2e-7 (root mean square) and 1e-5 (at most) in 18 to 512 steps, a thousandth of an 8-bit rounding
step, as much as rounding the network's own outputs does. Give a float64 x where it matters.

This file is the registry: a solver is a file of its own, and named here. What takes a solver's name, anywhere, reads it here.
"""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..foundation.errors import UserError
from . import pure_noise
from .consistency import CONSISTENCY, consistency
from .deis import DEIS, deis
from .dpmpp_2m import DPMPP_2M, dpmpp_2m
from .euler import EULER, euler
from .heun import HEUN, heun
from .ipndm import IPNDM, ipndm
from .protocol import Denoise, Noise, Sampler, check_sigmas, standard_normal
from .solver import Node, OdeSolver, Solver, count_calls
from .unipc import UNIPC, unipc

__all__ = [
    "CHURNED",
    "ODE_SOLVERS",
    "SOLVERS",
    "Denoise",
    "Node",
    "Noise",
    "OdeSolver",
    "OdeSolverName",
    "Sampler",
    "Solver",
    "SolverName",
    "check_sigmas",
    "consistency",
    "deis",
    "dpmpp_2m",
    "euler",
    "heun",
    "ipndm",
    "named",
    "nfe",
    "ode_solver",
    "standard_normal",
    "unipc",
]

SOLVERS: dict[str, Solver] = {
    solver.name: solver
    for solver in (
        EULER,
        HEUN,
        DPMPP_2M,
        IPNDM,
        UNIPC,
        DEIS,
        CONSISTENCY,
    )
}
ODE_SOLVERS: dict[str, OdeSolver] = {name: solver for name, solver in SOLVERS.items() if isinstance(solver, OdeSolver)}
CHURNED = tuple(name for name, solver in SOLVERS.items() if solver.takes_churn)

if TYPE_CHECKING:
    SolverName = str
    OdeSolverName = str
else:  # for recipes, which are refused with the nearest of these names before any work is done
    SolverName = Literal[tuple(SOLVERS)]
    OdeSolverName = Literal[tuple(ODE_SOLVERS)]


def named(solver: str | Sampler) -> Sampler:
    """The sampler of that name; a callable is returned as it is. Raises UserError for an unknown name."""
    if not isinstance(solver, str):
        return solver
    if solver not in SOLVERS:
        raise UserError(f"There is no solver {solver!r}: {_nearest(solver, list(SOLVERS))}")
    return SOLVERS[solver]


def ode_solver(name: str) -> OdeSolver:
    """The deterministic solver of that name. Raises UserError for another name."""
    if name not in ODE_SOLVERS:
        raise UserError(f"There is no solver of the ODE {name!r}: {_nearest(name, list(ODE_SOLVERS))}")
    return ODE_SOLVERS[name]


def nfe(solver: str | Sampler, sigmas: Float[Tensor, " nodes"], **options: Any) -> int:
    """Number of denoiser calls that this sampler makes on this grid; of a callable of one's own, counted by running it.

    A guided call inside the guidance interval costs two network evaluations (see `guidance`) and counts as one here.
    """
    sampler = named(solver)
    first, sigmas = pure_noise.finite(sigmas)
    if first and len(sigmas) == 1:
        return first
    if isinstance(sampler, Solver):
        return first + sampler.calls(len(check_sigmas(sigmas)) - 1)
    return first + count_calls(sampler, torch.zeros(1, 1), sigmas, generator=torch.Generator(), **options)


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}."
