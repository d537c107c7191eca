"""Sampler settings (solver and noise levels), with defaults by kind of model."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from .. import schedules
from ..samplers import check_sigmas

DENOISER_STEPS, CONSISTENCY_STEPS = 18, 2
SIGMA_MAX = 80.0  # EDM's


class Sampling(NamedTuple):
    """A solver and its noise levels.

    Args:
        solver: name in `samplers.SOLVERS`.
        sigmas: (steps + 1,), the last one 0.
        name: solver and grid for a protocol: heun, heun/uniform, consistency, consistency/0.82 (the given second level).
    """

    solver: str
    sigmas: Float64[Tensor, " nodes"]
    name: str

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


def choose(
    denoiser: Any,
    solver: str | None = None,
    steps: int | None = None,
    grid: str | None = None,
    levels: Sequence[float] | None = None,
    *,
    sigma_min: float = 0.002,
    sigma_max: float | None = None,
    options: Mapping[str, float] | None = None,
) -> Sampling:
    """Heun on Karras's grid with 18 steps for a denoiser; for a consistency model its own sampler with two.

    Args:
        denoiser: its `kind`, `sigma_data` and `sigma_max` count; without them it is a denoiser of data with standard deviation 0.5.
        solver: name in `samplers.SOLVERS`.
        steps: number of solver steps, >= 1.
        grid: name in `schedules.GRIDS`.
        levels: for the sampler "consistency", its noise levels after the first, decreasing; instead of a grid.
        sigma_min, sigma_max: of the grid; sigma_max None for the denoiser's own, or 80.
        options: further arguments of that grid.

    Raises:
        ValueError: levels that do not go with the other choices, or do not decrease from sigma_max.
    """
    if solver is None:
        solver = "consistency" if getattr(denoiser, "kind", "denoiser") == "consistency" else "heun"
    if sigma_max is None:
        sigma_max = getattr(denoiser, "sigma_max", None) or SIGMA_MAX
    if levels is not None:
        return _given(solver, steps, grid, list(levels), sigma_max)
    if solver == "consistency" and grid is None:
        sigma_data = getattr(denoiser, "sigma_data", 0.5)
        return Sampling(solver, schedules.consistency(steps or CONSISTENCY_STEPS, sigma_max, sigma_data), solver)
    steps = steps or (CONSISTENCY_STEPS if solver == "consistency" else DENOISER_STEPS)
    sigmas = schedules.GRIDS[grid or "karras"](steps, sigma_min=sigma_min, sigma_max=sigma_max, **(options or {}))
    return Sampling(
        solver, sigmas, solver if grid in (None, "karras") and solver != "consistency" else f"{solver}/{grid}"
    )


def _given(solver: str, steps: int | None, grid: str | None, levels: list[float], sigma_max: float) -> Sampling:
    if solver != "consistency" or grid is not None:
        raise ValueError("levels are for the solver consistency, and stand in the place of a grid")
    if steps is not None and steps != len(levels) + 1:
        raise ValueError(f"{steps} steps need {steps - 1} levels after the first, got {len(levels)}")
    sigmas = torch.tensor([sigma_max, *levels, 0.0], dtype=torch.float64)
    check_sigmas(sigmas)
    return Sampling(solver, sigmas, "/".join([solver, *(f"{level:.3g}" for level in levels)]))
