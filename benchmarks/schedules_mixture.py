"""Time grids where everything is exact: W2 between samples and a mixture of three Gaussians in one dimension.

    python benchmarks/schedules_mixture.py [--solvers heun euler] [--iterations 100]

Weights .3, .4, .3, means -1, .2, 1, standard deviations .1, .05, .2, the exact denoiser, sigma from 80, in float64. In one
dimension W2 is the root mean squared distance of the sorted samples from the quantiles; the 4000 starts are the quantiles of the
normal law. Grids are learned from 256 other trajectories. A few minutes of a core for each solver.
"""

import argparse

import torch
from torch import Tensor

from lightning_diff import samplers
from lightning_diff.foundation import rng
from lightning_diff.oracle import GaussianMixture
from lightning_diff.schedules.search import METHODS

STEPS = (2, 3, 5, 7, 10, 18, 30)
N = 4000


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def quantiles(mixture: GaussianMixture, p: Tensor) -> Tensor:
    """By bisection of the distribution function."""
    low, high = p.new_full(p.shape, -5.0), p.new_full(p.shape, 5.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = (
            torch.special.ndtr((middle[:, None] - mixture.means[:, 0]) / mixture.stds) @ mixture.log_weights.exp() < p
        )
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", nargs="+", default=["heun", "euler"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--iterations", type=int, default=100)
    options = parser.parse_args()
    mixture = GaussianMixture(numbers(0.3, 0.4, 0.3), numbers(-1, 0.2, 1)[:, None], numbers(0.1, 0.05, 0.2))
    p = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    x, data = 80 * torch.special.ndtri(p)[:, None], quantiles(mixture, p)
    noise = rng.normal(0, "schedule", range(256), (1,)).double()
    for solver in options.solvers:
        print(f"\n| {solver} | " + " | ".join(map(str, STEPS)) + " |\n" + "|---" * (len(STEPS) + 1) + "|")
        for method in options.methods:
            own = {"iterations": options.iterations} if method == "optimised" else {}
            cells = []
            for n in STEPS:
                sigmas = METHODS[method](mixture, noise, n, solver=solver, **own)
                samples = samplers.named(solver)(mixture, x, sigmas)[:, 0].sort().values
                cells.append(f"{(samples - data).square().mean().sqrt().item():.3g}")
            print(f"| {method} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
