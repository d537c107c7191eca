"""Solvers of the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma (EDM, arXiv 2206.00364, eq. 1, s(t) = 1), and the
sampler of models that answer with the ODE's end.

A sampler is one pure function  solver(denoise, x, sigmas, *, generator=None, ...) -> x  to be compared with its paper
line by line:

    denoise    callable (x, sigma) -> estimate of x0, with sigma a scalar tensor () in x's dtype and on x's device
    x          (B, ...) at noise level sigmas[0]: x = sigmas[0] * eps
    sigmas     (n+1,) strictly decreasing, the last one 0, float64 (see `schedules`): n steps
               (where it requires gradients, the result has them: see `schedules.optimised`)
    generator  where fresh noise comes from, for the stochastic ones: a torch.Generator, or a callable (x, step) ->
               standard normal tensor like x (a pure function of its arguments keeps samples independent of the batch
               they are in), or None for torch's global state

Step sizes are Python floats, that is float64. x stays in its own dtype. EDM steps in float64; for a float32 network
that changes samples by 2e-7 (root mean square) and 1e-5 (at most) in 18 to 512 steps, a thousandth of an 8-bit rounding
step, as much as rounding the network's own answers does. Give a float64 x where it matters.
"""

from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..foundation.errors import UserError
from .consistency import consistency
from .multistep import dpmpp_2m, ipndm, unipc
from .protocol import Denoise, Noise, Solver, check_sigmas, standard_normal
from .single_step import euler, heun

__all__ = [
    "SOLVERS",
    "Denoise",
    "Noise",
    "Solver",
    "check_sigmas",
    "consistency",
    "dpmpp_2m",
    "euler",
    "heun",
    "ipndm",
    "named",
    "nfe",
    "standard_normal",
    "unipc",
]

SOLVERS: dict[str, Solver] = {
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "ipndm": ipndm,
    "unipc": unipc,
    "consistency": consistency,
}


def named(solver: str | Solver) -> Solver:
    """The sampler of that name; a callable is returned as it is. Raises UserError for an unknown name."""
    if not isinstance(solver, str):
        return solver
    if solver not in SOLVERS:
        near = get_close_matches(solver, SOLVERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SOLVERS)}."
        raise UserError(f"There is no solver {solver!r}: {hint}")
    return SOLVERS[solver]


def nfe(solver: str | Solver, sigmas: Float[Tensor, " nodes"], **options: Any) -> int:
    """Number of denoiser calls that this sampler makes on this grid, counted by running it.

    A guided call inside the guidance interval costs two network evaluations (see `guidance`) and counts as one here.
    """
    calls = 0

    def count(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x

    named(solver)(count, torch.zeros(1, 1), sigmas, generator=torch.Generator(), **options)
    return calls
