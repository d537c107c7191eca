"""Every way to a time grid by name, on equal terms: n steps from sigma_max to 0, learned from the same noise.

    method(denoiser, noise, n, sigma_min, sigma_max, *, solver, labels, batch, progress) -> (n+1,)

What is fixed in advance looks at n and the range alone; what is learned looks at the model, and `art_solver` and `optimised` at the
solver too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..samplers import ODE_SOLVERS
from .art import art
from .ays import ays
from .gits import gits
from .grids import Grid, karras, log_snr, tangent, uniform
from .optimised import optimised
from .trajectories import Labels, Model

Method = Callable[..., Grid]


def _fixed(grid: Callable[..., Grid], free: bool = False) -> Method:
    """`free`: all n steps go to 0 evenly, and no node is forced to sigma_min."""

    def method(
        denoiser: Model,
        noise: Float[Tensor, "b *s"],
        n: int,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        *,
        solver: str = "heun",
        labels: Labels = None,
        batch: int = 64,
        progress: bool = False,
        **own: Any,
    ) -> Grid:
        return grid(n, sigma_min=0.0 if free else sigma_min, sigma_max=sigma_max, **own)

    return method


def _of_the_model(method: Method) -> Method:
    """A method that depends on the model only, not on the solver."""

    def without(*arguments: Any, solver: str = "heun", **options: Any) -> Grid:
        return method(*arguments, **options)

    return without


def descended(
    denoiser: Model,
    noise: Float[Tensor, "b *s"],
    n: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    *,
    solver: str = "heun",
    labels: Labels = None,
    batch: int = 64,
    progress: bool = False,
    **options: Any,
) -> Grid:
    """`optimised`, from the grid of `art` for the same solver; options for `optimised`."""
    own = solver if solver in ODE_SOLVERS else "heun"
    start = art(denoiser, noise, n, sigma_min, sigma_max, solver=own, labels=labels, progress=progress)
    return optimised(
        denoiser,
        noise,
        n,
        sigma_min,
        sigma_max,
        solver=solver,
        start=start,
        labels=labels,
        batch=min(batch, 64),  # whose whole solutions are kept for the gradient
        progress=progress,
        **options,
    )


METHODS: dict[str, Method] = {
    "edm": _fixed(karras),
    "edm_free": _fixed(karras, free=True),
    "log_snr": _fixed(log_snr),
    "uniform": _fixed(uniform),
    "tangent": _fixed(tangent),
    "art": _of_the_model(partial(art, solver="euler")),
    "art_solver": art,
    "gits": _of_the_model(gits),
    "ays": _of_the_model(ays),
    "optimised": descended,
}
LEARNED = ("art", "art_solver", "gits", "ays", "optimised")
