"""Regression onto the ends of a teacher's sampling paths: what a consistency model is, learned by squared error."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..condition import AnyCondition
from ..denoiser import Denoiser
from ..samplers import Denoise
from ..samplers.stepwise import Stepwise


class Paths(NamedTuple):
    """The nodes of B paths.

    Args:
        points: (N, B, ...), x at the N noise levels, the largest first.
        ends: (B, ...), where they lead: the teacher's output at the lowest level.
    """

    points: Float[Tensor, "n b ..."]
    ends: Float[Tensor, "b ..."]


@torch.no_grad()
def teacher_paths(
    teacher: Denoise, noise: Float[Tensor, "b ..."], sigmas: Sequence[float], solver: str = "dpmpp_2m"
) -> Paths:
    """The teacher's samples from sigmas[0] noise, and where they were on the way.

    Args:
        teacher: (x, sigma (B,)) -> D, conditions and guidance included.
        noise: standard normal.
        sigmas: N noise levels, decreasing, > 0. From the last one a step goes to 0.
        solver: a name in `samplers.ODE_SOLVERS`, which calls the teacher N times if it does so once a step.
    """
    solve, x = Stepwise(teacher, solver, len(sigmas)), sigmas[0] * noise
    points = x.new_empty(len(sigmas), *x.shape)
    for i, (level, level_next) in enumerate(pairwise((*sigmas, 0.0))):
        points[i] = x
        sigma, sigma_next = (
            torch.full((len(x),), each, dtype=torch.float64, device=x.device) for each in (level, level_next)
        )
        x = solve(x, sigma, sigma_next)
    return Paths(points, x)


def path_regression_loss(
    denoiser: Denoiser,
    x: Float[Tensor, "b ..."],
    sigma: Float[Tensor, " b"],
    end: Float[Tensor, "b ..."],
    label: AnyCondition | None = None,
    **conditioning: Tensor | None,
) -> Float[Tensor, " b"]:
    """Unweighted loss per sample, |D(x; sigma) - end|^2 averaged over dimensions (CMT, arXiv 2509.24526, algorithm 1, with squared
    error in place of a perceptual distance).

    At every node of a path the target is the same, so that the minimum is the consistency function of the teacher's solver. Nothing
    is bootstrapped, and no derivative of the network is taken.

    Args:
        denoiser: the student.
        x, sigma, end: nodes of paths (see `teacher_paths`), each sample at a level of its own.
        label: what the path was conditioned on: classes, a `Condition`, or None.
        conditioning: handed to the network as it is.
    """
    D: Tensor = denoiser(x, sigma.to(x.dtype), label, **conditioning)
    return (D - end).square().flatten(1).mean(1)
