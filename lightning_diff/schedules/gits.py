"""Geometry-Inspired Time Scheduling: levels chosen among those of a fine grid, by dynamic programming over trajectories' shape."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..foundation.progress import each
from ..samplers import Node
from .grids import karras
from .trajectories import Labels, Model, parts, path


def gits(
    denoiser: Model,
    noise: Float[Tensor, "b *s"],
    n: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    *,
    labels: Labels = None,
    levels: int = 60,
    coefficient: float = 1.15,
    batch: int = 256,
    progress: bool = False,
) -> Float64[Tensor, " nodes"]:
    """GITS (arXiv 2405.11326): n steps of least cost among fine levels, (n+1,), from sigma_max to 0.

    The cost of a step is by how much Euler's jump lies further from the line between the trajectory's ends than the trajectory
    itself does, and the best cost to go is V_i = min_j c_ij + coefficient V_j. Here 0 is a level among the others, so that no node
    is forced to sigma_min. In one dimension all is on the line, and the jump's distance from the trajectory stands in.

    Args:
        denoiser: callable (x, sigma, label) -> x0, or without labels (x, sigma) -> x0.
        noise: standard normal; a trajectory starts at sigma_max times each row.
        n: steps, 1 to `levels`.
        sigma_min, sigma_max: the fine levels are EDM's between them, and then 0.
        labels: a class for each row, or None.
        levels: of the fine grid, two calls for each; the jumps cost none.
        coefficient: above 1, early steps count less.
        batch: rows at a time; their trajectories are kept in memory.
        progress: show a bar on a terminal.
    """
    sigmas = karras(levels, sigma_min, sigma_max)
    costs = _costs(denoiser, noise, sigmas, labels, batch, progress)
    return sigmas[cheapest(costs, n, coefficient)]


def cheapest(costs: Float[Tensor, "m m"], n: int, coefficient: float = 1.0) -> list[int]:
    """The n steps 0 = i_0 < i_1 < ... < i_n = m - 1 of least cost, where V_i = min_j c_ij + coefficient V_j.

    Args:
        costs: c_ij of the step from i to j > i; the rest is not looked at.
        n: steps, 1 to m - 1.
    """
    m = len(costs)
    if not 1 <= n < m:
        raise ValueError(f"cheapest: {m} levels allow 1 to {m - 1} steps, got n={n}")
    ahead = costs.double().masked_fill(~torch.ones(m, m, dtype=torch.bool).triu(1), torch.inf)
    togo, choices = ahead[:, -1], []
    for _ in range(n - 1):
        togo, choice = (ahead + coefficient * togo).min(1)
        choices.append(choice)
    nodes = [0]
    for choice in reversed(choices):
        nodes.append(int(choice[nodes[-1]]))
    return [*nodes, m - 1]


@torch.no_grad()
def _costs(
    denoiser: Model, noise: Tensor, levels: Float64[Tensor, " m"], labels: Labels, batch: int, progress: bool
) -> Float64[Tensor, "m m"]:
    """c_ij averaged over the rows of noise."""
    total = torch.zeros(len(levels), len(levels), dtype=torch.float64, device=noise.device)
    rows = list(parts(denoiser, noise, labels, batch))
    for denoise, part in each(rows, "trajectories", len(rows), "batch", shown=progress):
        points = path(denoise, levels[0].item() * part, levels.to(part.device))
        ratios = [(levels[i + 1 :] / sigma).to(part) for i, sigma in enumerate(levels[:-1].tolist())]
        exact = torch.stack([point.x.flatten(1) for point in points])
        own = _off_the_chord(points, exact)
        for i, at in enumerate(points[:-1]):
            ratio = ratios[i][:, None, None]
            jumps = ratio * at.x.flatten(1) + (1 - ratio) * at.denoised.flatten(1)
            if exact.shape[-1] == 1:
                cost = (jumps - exact[i + 1 :]).abs().squeeze(-1)
            else:
                cost = _off_the_chord(points, jumps) - own[i + 1 :]
            total[i, i + 1 :] += cost.double().sum(1)
    return total.cpu() / len(noise)


def _off_the_chord(points: list[Node], x: Float[Tensor, "k b d"]) -> Float[Tensor, "k b"]:
    """Distance from the line through the trajectories' two ends."""
    start, end = points[0].x.flatten(1), points[-1].x.flatten(1)
    chord = (start - end) / (start - end).norm(dim=1, keepdim=True)
    away = x - end
    distance: Tensor = (away - (away * chord).sum(-1, keepdim=True) * chord).norm(dim=-1)
    return distance
