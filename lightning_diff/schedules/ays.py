"""Align Your Steps: the grid of the least bound on the divergence between what a stochastic solver and its SDE draw."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..foundation import rng
from ..foundation.devices import moved
from ..foundation.progress import stage
from .gits import cheapest
from .grids import karras
from .trajectories import Labels, Model, parts, path


def ays(
    denoiser: Model,
    noise: Float[Tensor, "b *s"],
    n: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    *,
    labels: Labels = None,
    levels: int = 100,
    seed: int = 0,
    batch: int = 256,
    progress: bool = False,
) -> Float64[Tensor, " nodes"]:
    """The grid of n steps of least Girsanov bound (AYS, arXiv 2404.14507, eq. 14): (n+1,), sigma_min the last node before 0.

    A solver that holds D(x_i; sigma_i) over its step from sigma_i to sigma_j, of the SDE with the ODE's marginals, is off by
    at most

        sum over steps of the integral over sigma in (sigma_j, sigma_i) of E |D(x; sigma) - D(x_i; sigma_i)|^2 / sigma^3 dsigma,

    with x and x_i on one path of noise. The bound is infinite down to 0, so the last node before is sigma_min, as published. The
    paths lead from the model's own samples (25 Heun steps) up: one call a level. The paper moves one node at a time; over fixed
    levels the minimum is found exactly.

    Args:
        n: steps, >= 1, at most `levels`.
        levels: among which the nodes are chosen, even in ln sigma.
        seed: of the paths' noise.
        denoiser, noise, sigma_min, sigma_max, labels, batch, progress: see `gits`.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"ays: need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if n < 1:
        raise ValueError(f"ays: need at least one step, got n={n}")
    if n == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    sigmas = torch.logspace(0, 1, levels, base=sigma_min / sigma_max, dtype=torch.float64) * sigma_max
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    apart = _distances(denoiser, noise, sigmas, labels, seed, batch, progress)
    # the integral over the interval between two levels, of 1 / sigma^3 exactly and of the distance by its mean at the ends
    weight = (sigmas[1:] ** -2 - sigmas[:-1] ** -2) / 2
    pieces = (apart[:, 1:] + apart[:, :-1]) / 2 * weight
    costs = torch.zeros(levels, levels, dtype=torch.float64)
    for i in range(levels - 1):
        costs[i, i + 1 :] = pieces[i, i:].cumsum(0)
    return torch.cat([sigmas[cheapest(costs, n - 1)], sigmas.new_zeros(1)])


@torch.no_grad()
def _distances(
    denoiser: Model, noise: Tensor, sigmas: Float64[Tensor, " m"], labels: Labels, seed: int, batch: int, progress: bool
) -> Float64[Tensor, "m m"]:
    """E |D(x_i; sigma_i) - D(x_j; sigma_j)|^2 along paths of noise."""
    m, total = len(sigmas), torch.zeros(len(sigmas), len(sigmas), dtype=torch.float64, device=noise.device)
    generator = rng.start(torch.Generator(), seed, "ays")
    rows = list(parts(denoiser, noise, labels, batch))
    with stage("bound", len(rows) * m, "level", shown=progress) as bar:
        for denoise, part in rows:
            start, end = float(sigmas[0]), float(sigmas[-1])
            x = path(denoise, start * part, karras(25, end, start).to(part.device))[-1].x
            outputs, variance = [], 0.0
            for sigma in sigmas.flip(0).tolist():
                fresh = moved(torch.randn(part.shape, generator=generator, dtype=part.dtype), part.device)
                x, variance = x + (sigma**2 - variance) ** 0.5 * fresh, sigma**2
                outputs.append(denoise(x, x.new_full((), sigma)).flatten(1).double())
                bar.advance()
            D = torch.stack(outputs[::-1])
            for i in range(m):
                total[i] += (D - D[i]).square().sum((1, 2))
    return total.cpu() / len(noise)
