"""ART's optimal time grid, in closed form.

A step of width h of a solver of order p loses C h^(p + 1). Over n steps the sum of these losses is least where all of them are
equal, so the density of nodes per unit of sigma is

    rho(sigma) = E[C](sigma)^(1 / (p + 1)),

whatever n is, for the trajectories do not depend on the grid. For Euler's method C = |Q| / 2 (see `monitor`), and
rho = |Q|^(1/2) is the solution theta = |Q|^(-1/2) of ART's control problem (arXiv 2601.18681, eq. 9), which its authors learn
instead. For the other solvers C is measured step by step (see `costs`). The expectation is over the model's own trajectories.

Measuring is what costs; an `Estimate` gives the grids for every n.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..foundation.progress import stage
from ..samplers import Denoise, Node, ode_solver
from .costs import heun_step, local_error
from .grids import karras
from .monitor import monitor
from .trajectories import Labels, Model, parts

_FINE = 4096  # places at which the density is integrated


@dataclass(frozen=True)
class Estimate:
    """What steps lose along a model's trajectories, at each noise level.

    Args:
        sigmas: (m,) where it was measured, strictly decreasing, > 0.
        loss: (m,) E[C] there, >= 0: a step of width h loses C h^(order + 1), in the Euclidean norm of a sample.
        order: p of the solver.
        trajectories: how many were averaged.
        sigma_max: where they began.
    """

    sigmas: Float64[Tensor, " m"]
    loss: Float64[Tensor, " m"]
    order: int
    trajectories: int
    sigma_max: float

    def merged(self, other: "Estimate") -> "Estimate":
        """The estimate from the trajectories of both. ValueError unless both are of one kind."""
        if not (torch.equal(self.sigmas, other.sigmas) and self.order == other.order):
            raise ValueError("Estimate: only estimates at the same noise levels and of the same order can be merged")
        total = self.trajectories + other.trajectories
        loss = (self.trajectories * self.loss + other.trajectories * other.loss) / total
        return Estimate(self.sigmas, loss, self.order, total, self.sigma_max)

    def density(self, sigma: Float[Tensor, " k"]) -> Float64[Tensor, " k"]:
        """rho there, up to a factor: log-linear between the measured levels, constant beyond them."""
        floor = max(1e-12 * float(self.loss.max()), torch.finfo(torch.float64).tiny)
        rho = self.loss.clamp(min=floor) ** (1 / (self.order + 1))
        return torch.from_numpy(np.exp(np.interp(sigma.double().log(), self.sigmas.flip(0).log(), rho.flip(0).log())))

    def grid(self, n: int) -> Float64[Tensor, " nodes"]:
        """n steps from sigma_max to 0 of equal loss: (n+1,), strictly decreasing, ending in 0; no node is forced anywhere."""
        if n < 1:
            raise ValueError(f"art: need at least one step, got n={n}")
        lowest = float(self.sigmas[-1])
        sigma = torch.logspace(np.log10(lowest), np.log10(self.sigma_max), _FINE, dtype=torch.float64)
        rho = self.density(sigma)
        # the integral of rho from 0 on, where it is constant up to the lowest level
        share = torch.cat([rho[:1] * lowest, (rho[1:] + rho[:-1]) / 2 * sigma.diff()]).cumsum(0)
        even = torch.linspace(1, 0, n + 1, dtype=torch.float64) * share[-1]
        levels = np.interp(even, np.concatenate([[0.0], share]), np.concatenate([[0.0], sigma]))
        levels[0], levels[-1] = self.sigma_max, 0.0
        return torch.from_numpy(levels)


def art(
    denoiser: Model,
    noise: Float[Tensor, "b *s"],
    n: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    *,
    solver: str = "euler",
    nodes: int = 64,
    derivative: str = "jvp",
    labels: Labels = None,
    batch: int = 256,
    progress: bool = False,
) -> Float64[Tensor, " nodes"]:
    """ART's grid of n steps for this model: (n+1,), from sigma_max to 0, with no node forced to sigma_min.

    Use `estimate` for grids of several n. Arguments as there.
    """
    found = estimate(
        denoiser,
        noise,
        sigma_min,
        sigma_max,
        solver=solver,
        nodes=nodes,
        derivative=derivative,
        labels=labels,
        batch=batch,
        progress=progress,
    )
    return found.grid(n)


def estimate(
    denoiser: Model,
    noise: Float[Tensor, "b *s"],
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    *,
    solver: str = "euler",
    nodes: int = 64,
    derivative: str = "jvp",
    labels: Labels = None,
    batch: int = 256,
    progress: bool = False,
) -> Estimate:
    """What steps of a solver lose along this model's trajectories.

    Args:
        denoiser: callable (x, sigma, label) -> x0, or without labels (x, sigma) -> x0; bind guidance first (see `guidance`).
        noise: standard normal, a trajectory starts at sigma_max times each row. 256 rows suffice for a grid.
        sigma_min, sigma_max: between which it is measured, at EDM's levels; below sigma_min the density is held constant.
        solver: a name in `samplers.ODE_SOLVERS`: which solver's loss, of a multistep one in its two-step form. "euler" is ART as
            published.
        nodes: levels, >= 8. Two calls each and for Euler a Jacobian-vector product, for another solver four to six calls.
        derivative: for Euler, see `monitor`.
        labels: a class for each row, or None.
        batch: rows at a time.
        progress: show a bar on a terminal.
    """
    order = ode_solver(solver).two_step_order
    if nodes < 8:
        raise ValueError(f"art: need at least 8 nodes to see how the loss changes, got {nodes}")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"art: need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    levels = karras(nodes, sigma_min, sigma_max)[:-1].to(noise.device)
    measure = _eulers if solver == "euler" else _measured
    total = torch.zeros(nodes if solver == "euler" else nodes - 1, dtype=torch.float64, device=noise.device)
    rows = list(parts(denoiser, noise, labels, batch))
    with torch.no_grad(), stage("monitor", len(rows) * len(total), "level", shown=progress) as bar:
        for denoise, part in rows:
            for i, loss in enumerate(measure(denoise, sigma_max * part, levels, solver, derivative)):
                total[i] += loss.double().sum()
                bar.advance()
    sigmas = levels.cpu() if solver == "euler" else (levels[:-1] * levels[1:]).sqrt().cpu()
    return Estimate(sigmas, total.cpu() / len(noise), order, len(noise), sigma_max)


def _eulers(denoise: Denoise, x: Tensor, levels: Tensor, solver: str, derivative: str) -> Iterator[Float[Tensor, " b"]]:
    """|Q| / 2 at each level along the trajectories."""
    for i, sigma in enumerate(levels):
        F, Q = monitor(denoise, x, sigma, derivative)
        yield Q.flatten(1).norm(dim=1) / 2
        if i + 1 < len(levels):
            x = heun_step(denoise, x, sigma, levels[i + 1], denoised=x + sigma.to(x.dtype) * F)


def _measured(
    denoise: Denoise, x: Tensor, levels: Tensor, solver: str, derivative: str
) -> Iterator[Float[Tensor, " b"]]:
    """The solver's loss between each level and the next, over its width to the power order + 1."""
    past: tuple[Node, ...] = ()
    order = ode_solver(solver).two_step_order
    for sigma, sigma_next in pairwise(levels):
        taken = local_error(denoise, x, sigma, sigma_next, solver, past=past, substeps=2)
        yield taken.error / (sigma - sigma_next) ** (order + 1)
        x, past = taken.exact, (taken.node,)
