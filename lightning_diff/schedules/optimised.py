"""The grid that is best for a solver and a model, by descent through the solver itself."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..foundation.progress import each
from ..samplers import check_sigmas, named
from .grids import karras, log_snr
from .trajectories import Labels, Model, parts, path

Distance = Callable[[Tensor, Tensor], Tensor]


def optimised(
    denoiser: Model,
    noise: Float[Tensor, "b *s"],
    n: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    *,
    solver: str = "heun",
    start: Float[Tensor, " nodes"] | None = None,
    labels: Labels = None,
    teacher: int = 64,
    iterations: int = 150,
    rate: float = 0.1,
    batch: int = 64,
    distance: Distance | None = None,
    progress: bool = False,
) -> Float64[Tensor, " nodes"]:
    """The grid whose samples end nearest to where a fine solver ends from the same noise: (n+1,), from sigma_max to 0.

    After LD3 (arXiv 2405.15506), with the mean squared distance for its LPIPS. The steps in ln sigma are a softmax of n logits, the
    last of them the distance from the last node to sigma_min, which is never reached; Adam descends on them, back through the
    solver. Every tenth grid is judged on all the noise, and the best one returned, the start among them.

    Args:
        denoiser: callable (x, sigma, label) -> x0, or without labels; it must be differentiable. Its weights get no gradients.
        noise: standard normal; a trajectory starts at sigma_max times each row. 128 rows or more: fewer can be learned by heart.
        n: steps, >= 1.
        sigma_min, sigma_max: between which the n - 1 nodes after the first move.
        solver: name in `samplers.SOLVERS`, a deterministic one.
        start: a grid of n steps to begin with; one of `art` with that solver is a good one. None: even in ln sigma.
        labels: a class for each row, or None.
        teacher: Heun steps of the fine solver, on EDM's grid.
        iterations: descent steps, each with `batch` rows.
        rate: Adam's, on the logits; falls to a tenth along a cosine.
        batch: rows at a time; the whole solution of a batch is kept in memory for the gradient.
        distance: differentiable callable (samples, where they should end) -> (B,) or (). None: the mean squared difference, under
            which a blurred sample near the right one is better than a sharp one beside it; few steps want a distance of features.
        progress: show a bar on a terminal.
    """
    if n < 1:
        raise ValueError(f"optimised: need at least one step, got n={n}")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"optimised: need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if n == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    start = log_snr(n + 1, sigma_min, sigma_max)[[*range(n), n + 1]] if start is None else start
    if len(check_sigmas(start)) != n + 1:
        raise ValueError(f"optimised: start has {len(start) - 1} steps, but n={n}")
    problem = _Problem(denoiser, noise, labels, sigma_min, sigma_max, solver, teacher, batch, distance)
    return _descend(problem, start, iterations, rate, progress)


def _descend(
    problem: "_Problem", start: Float[Tensor, " nodes"], iterations: int, rate: float, progress: bool
) -> Float64[Tensor, " nodes"]:
    """The best of the grids that Adam comes by, the start among them."""
    logits = problem.logits(start).requires_grad_()
    best, least = start.double(), problem.distance(start)
    optimizer = torch.optim.Adam([logits], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(iterations, 1), eta_min=rate / 10)
    for k in each(range(iterations), "descent", iterations, "step", shown=progress):
        loss = problem.loss(problem.nodes(logits), k % len(problem.rows))
        (logits.grad,) = torch.autograd.grad(loss, logits)
        # Errors differ by orders of magnitude among batches and grids; their logarithm has gradients of one size.
        logits.grad /= loss.detach().clamp(min=1e-20)
        optimizer.step()
        schedule.step()
        if k % 10 == 9 or k + 1 == iterations:
            sigmas = problem.nodes(logits.detach())
            reached = problem.distance(sigmas)
            if reached < least:
                best, least = sigmas, reached
    return best


class _Problem:
    """The noise, where it should end, and how far from there a grid ends."""

    def __init__(
        self,
        denoiser: Model,
        noise: Tensor,
        labels: Labels,
        sigma_min: float,
        sigma_max: float,
        solver: str,
        teacher: int,
        batch: int,
        distance: Distance | None,
    ):
        self.solve, self.sigma_max = named(solver), sigma_max
        self.between = _squared if distance is None else distance
        self.width = torch.tensor(sigma_max / sigma_min, dtype=torch.float64).log()
        fine = karras(teacher, sigma_min, sigma_max)
        self.rows = list(parts(denoiser, noise, labels, batch))
        self.ends = [path(denoise, sigma_max * part, fine.to(part.device))[-1].x for denoise, part in self.rows]

    def nodes(self, logits: Float64[Tensor, " n"]) -> Float64[Tensor, " nodes"]:
        below = logits.softmax(0).cumsum(0)[:-1] * self.width
        first = logits.new_full((1,), self.sigma_max)
        return torch.cat([first, self.sigma_max * (-below).exp(), torch.zeros_like(first)])

    def logits(self, sigmas: Float[Tensor, " nodes"]) -> Float64[Tensor, " n"]:
        """The inverse; nodes at or below sigma_min are moved above it."""
        below = (self.sigma_max / sigmas[:-1].double()).log() / self.width
        gaps = torch.cat([below, below.new_ones(1)]).diff().clamp(min=1e-4)
        return gaps.log()

    def loss(self, sigmas: Float64[Tensor, " nodes"], k: int) -> Float[Tensor, ""]:
        """The mean distance of batch k's ends from where they should be."""
        denoise, part = self.rows[k]
        return self.between(self.solve(denoise, self.sigma_max * part, sigmas), self.ends[k]).mean()

    @torch.no_grad()
    def distance(self, sigmas: Float[Tensor, " nodes"]) -> float:
        sizes = [len(part) for _, part in self.rows]
        losses = [size * self.loss(sigmas, k).item() for k, size in enumerate(sizes)]
        return sum(losses) / sum(sizes)


def _squared(samples: Tensor, ends: Tensor) -> Tensor:
    return (samples - ends).square()
