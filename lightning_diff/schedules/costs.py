"""What one step of a solver loses: its own local error, against a fine solution of the same stretch of the trajectory.

ART's cost is Euler's error, h^2 / 2 |Q| (see `monitor`), whatever solver the grid is for. A solver of order p loses C h^(p+1) with
another C, large at other noise levels; and a step of a grid of five is too long for either formula. Here the step is taken.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers import Denoise

ORDERS: dict[str, int] = {"euler": 1, "heun": 2, "dpmpp_2m": 2, "ipndm": 2, "unipc": 3}
"""Order of accuracy on a smooth grid: the local error goes as the step to the power order + 1."""

Sigma = Float[Tensor, ""] | Float[Tensor, " b"]


class Past(NamedTuple):
    """What a multistep solver remembers of the node before: its noise level, the samples there, and what the denoiser said."""

    sigma: Sigma
    x: Tensor
    denoised: Tensor


class Step(NamedTuple):
    """One step from (x, sigma) to sigma_next.

    Args:
        exact: (B, ...), where the ODE takes x, by the fine solver.
        taken: (B, ...), where one step of the solver takes it.
        error: (B,), the Euclidean norm of the difference.
        past: (sigma, x, D(x; sigma)), for the step from `exact`.
    """

    exact: Tensor
    taken: Tensor
    error: Float[Tensor, " b"]
    past: Past


def local_error(
    denoise: Denoise,
    x: Float[Tensor, "b *s"],
    sigma: Sigma,
    sigma_next: Sigma,
    solver: str = "heun",
    *,
    past: Past | None = None,
    substeps: int = 4,
    denoised: Float[Tensor, "b *s"] | None = None,
) -> Step:
    """What the solver loses between two noise levels, for samples that were on their exact trajectories until now.

    Args:
        denoise: callable (x, sigma) -> x0.
        x: samples at noise level sigma.
        sigma, sigma_next: sigma > sigma_next >= 0, one for all or one for each.
        solver: a name in `ORDERS`. The multistep ones are represented by their two-step forms (unipc with its corrector).
        past: the node before, for multistep solvers; without it they take their first step.
        substeps: Heun steps of the fine solution, even in sigma^(1/3); two calls each.
        denoised: D(x; sigma), if it is known.

    Raises:
        ValueError: an unknown solver, or less than one substep.
    """
    D = denoise(x, sigma.to(x.dtype)) if denoised is None else denoised
    taken = step(denoise, x, sigma, sigma_next, solver, past=past, denoised=D)
    exact = reference(denoise, x, sigma, sigma_next, substeps, denoised=D)
    return Step(exact, taken, (taken - exact).flatten(1).norm(dim=1), Past(sigma, x, D))


def reference(
    denoise: Denoise,
    x: Float[Tensor, "b *s"],
    sigma: Sigma,
    sigma_next: Sigma,
    substeps: int = 4,
    *,
    denoised: Float[Tensor, "b *s"] | None = None,
) -> Float[Tensor, "b *s"]:
    """x at sigma_next by that many Heun steps. Arguments as for `local_error`; `denoised` is D(x; sigma) if it is known."""
    if substeps < 1:
        raise ValueError(f"reference: need at least one substep, got {substeps}")
    start, end = sigma ** (1 / 3), sigma_next ** (1 / 3)
    levels = [sigma, *((start + (end - start) * k / substeps) ** 3 for k in range(1, substeps)), sigma_next]
    for level, level_next in pairwise(levels):
        x = step(denoise, x, level, level_next, "heun", denoised=denoised)
        denoised = None
    return x


def step(
    denoise: Denoise,
    x: Float[Tensor, "b *s"],
    sigma: Sigma,
    sigma_next: Sigma,
    solver: str = "heun",
    *,
    past: Past | None = None,
    denoised: Float[Tensor, "b *s"] | None = None,
) -> Float[Tensor, "b *s"]:
    """x at sigma_next by one step of the solver: the formulas of `samplers`, for noise levels that may differ among samples.

    Arguments as for `local_error`; `denoised` is D(x; sigma) if it is known.
    """
    if solver not in ORDERS:
        raise ValueError(f"step: solver must be one of {', '.join(ORDERS)}, got {solver!r}")
    D = denoise(x, sigma.to(x.dtype)) if denoised is None else denoised
    s, s_next = _column(sigma, x), _column(sigma_next, x)
    euler = s_next / s * x + (1 - s_next / s) * D
    last = s_next == 0  # to 0 every solver goes by Euler's step
    if solver == "euler" or last.all():
        return euler
    # Samples whose step is the last one compute along with the others, at any noise level, and are replaced.
    level_next = torch.where(sigma_next == 0, sigma / 2, sigma_next).to(x.dtype)
    s_next = _column(level_next, x)
    if solver == "heun":
        slope = (x - D) / s + (euler - denoise(euler, level_next)) / s_next
        longer = x + (s_next - s) / 2 * slope
    elif solver == "ipndm":
        longer = _adams_bashforth(x, D, s, s_next, past)
    else:
        longer = _exponential(denoise, x, D, s, s_next, past, level_next if solver == "unipc" else None)
    return torch.where(last, euler, longer)


def _adams_bashforth(x: Tensor, D: Tensor, s: Tensor, s_next: Tensor, past: Past | None) -> Tensor:
    """The slope (x - D) / sigma, continued by half its last change whatever the steps, as published."""
    slope = (x - D) / s
    if past is not None:
        slope = slope + (slope - (past.x - past.denoised) / _column(past.sigma, x)) / 2
    return x + (s_next - s) * slope


def _exponential(
    denoise: Denoise, x: Tensor, D: Tensor, s: Tensor, s_next: Tensor, past: Past | None, corrected: Tensor | None
) -> Tensor:
    """DPM-Solver++(2M); and corrected with the answer at the level `corrected`, UniPC's step."""
    h, ratio = (s / s_next).log(), s_next / s
    rest = -torch.expm1(-h)  # m_0 of m_k = integral over u in (0, 1) of h exp(-h (1 - u)) u^k
    q, A_before = torch.ones_like(h), torch.zeros_like(x)
    if past is not None:
        q = (_column(past.sigma, x) / s).log() / h
        A_before = past.denoised - D
    guess = ratio * x + rest * (D - A_before / (2 * q))
    if corrected is None:
        return guess
    A = denoise(guess, corrected) - D
    if past is None:
        return ratio * x + rest * (D + A / 2)
    m_1 = 1 - rest / h
    m_2 = 1 - 2 * m_1 / h
    curve = (A_before + q * A) / (q * (q + 1))  # D + (A - curve) u + curve u^2 goes through all three answers
    return ratio * x + rest * D + m_1 * (A - curve) + m_2 * curve


def _column(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
