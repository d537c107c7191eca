"""Solvers that go on from the denoiser's last answers: one call for each step, from the second order on.

All of them go to 0 by Euler's step, whose result is the denoiser's answer.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Noise, level, levels, log


def dpmpp_2m(
    denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Float[Tensor, " nodes"], *, generator: Noise = None
) -> Float[Tensor, "b ..."]:
    """DPM-Solver++(2M), the multistep one in data prediction (arXiv 2211.01095, alg. 2). Order 2, n calls.

    With alpha = 1 and lambda = -ln sigma: x_i = (sigma_i / sigma_{i-1}) x_{i-1} - (exp(-h_i) - 1) D_i, where h_i =
    lambda_i - lambda_{i-1}, r_i = h_{i-1} / h_i and D_i = (1 + 1/(2 r_i)) D(x_{i-1}) - 1/(2 r_i) D(x_{i-2}). The first
    step has no past and the last one an infinite h, so both are of first order. Deterministic: `generator` is accepted,
    as by every sampler, and not used.
    """
    D_previous, h_previous = None, 0.0
    for sigma, sigma_next in pairwise(levels(sigmas)):
        D = denoised = denoise(x, level(sigma, x))
        ratio = sigma_next / sigma  # exp(-h)
        h = -log(ratio) if ratio > 0 else math.inf
        if D_previous is not None and h < math.inf:
            r = h_previous / h
            D = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * D_previous
        x = ratio * x + (1 - ratio) * D
        D_previous, h_previous = denoised, h
    return x


def ipndm(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " nodes"],
    *,
    generator: Noise = None,
    order: int = 4,
) -> Float[Tensor, "b ..."]:
    """Improved PNDM (arXiv 2204.13902, section 3.3): Adams and Bashforth's method in sigma. n calls.

    The slope eps_i = (x_i - D_i) / sigma_i is continued from the last `order` nodes by the weights for equal steps, whatever the
    steps are, as published: exact on an even grid, of order 2 on others. The first steps have a shorter past, and are of the order
    that it allows. Deterministic: `generator` is accepted, as by every sampler, and not used.

    Args:
        order: 1 (Euler's method) to 4.
    """
    if order not in ADAMS_BASHFORTH:
        raise ValueError(f"ipndm: order must be 1, 2, 3 or 4, got {order}")
    slopes: list[Tensor] = []  # the newest first
    for sigma, sigma_next in pairwise(levels(sigmas)):
        D = denoise(x, level(sigma, x))
        if sigma_next == 0:
            return D
        slopes = [(x - D) / sigma, *slopes][:order]
        weights = ADAMS_BASHFORTH[len(slopes)]
        x = x + (sigma_next - sigma) * _weighted(weights, slopes)
    return x


def unipc(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " nodes"],
    *,
    generator: Noise = None,
    order: int = 3,
) -> Float[Tensor, "b ..."]:
    """UniPC, the multistep one in data prediction with B(h) = e^h - 1 (arXiv 2302.04867, alg. 7 and 8). n calls.

    With lambda = -ln sigma and h = lambda_{i+1} - lambda_i the ODE says x_{i+1} = e^-h x_i + integral over u in (0, 1) of
    h e^{-h (1 - u)} D(u). UniP puts the polynomial through the last p answers in D's place, UniC then corrects the step with the
    answer at its end, which serves the next step too, so that it costs no call. With two answers the integral of the slope is
    replaced by half of B(h)'s, as in the paper. Step i is of order p = min(order, i + 1, n - i) and one more by its correction: few
    steps need a low order at the end. Deterministic: `generator` is accepted, as by every sampler, and not used.

    Args:
        order: of the predictor, 1 to 3.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"unipc: order must be 1, 2 or 3, got {order}")
    nodes = levels(sigmas)
    past: list[tuple[Any, Tensor]] = []  # (lambda, D), the newest first
    D = denoise(x, level(nodes[0], x))
    for i, (sigma, sigma_next) in enumerate(pairwise(nodes)):
        if sigma_next == 0:
            return D
        past = [(-log(sigma), D), *past][: min(order, len(nodes) - 1 - i)]
        ratio, h = sigma_next / sigma, log(sigma / sigma_next)
        places = [(place - past[0][0]) / h for place, _ in past]
        answers = [answer for _, answer in past]
        guess = ratio * x + _weighted(exponential_weights(h, places), answers)
        D = denoise(guess, level(sigma_next, x))
        x = ratio * x + _weighted(exponential_weights(h, [*places, 1.0]), [*answers, D])
    return x


ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
_PLACES, _WEIGHTS = (torch.from_numpy(numbers) / 2 for numbers in np.polynomial.legendre.leggauss(48))


def exponential_weights(h: Any, places: Sequence[Any]) -> list[Any]:
    """w with integral over u in (0, 1) of h e^{-h (1 - u)} P(u) = sum_j w_j P(places_j), for polynomials P through those places.

    places: distinct, the first one 0, in units of the step; floats like h, or tensors of its shape, () or (B,), as are the weights.
    """
    h, tensors = torch.as_tensor(h, dtype=torch.float64), isinstance(h, Tensor)
    whole = -torch.expm1(-h)
    if len(places) == 2:  # the paper's shortcut: half of B(h) for the slope
        slope = whole / (2 * places[1])
        weights = torch.stack([whole - slope, slope])
    else:
        at = torch.stack(
            [torch.as_tensor(place, dtype=torch.float64, device=h.device).expand_as(h) for place in places], -1
        )
        u = (_PLACES + 0.5).to(h.device)
        powers = torch.arange(len(places), device=h.device)[:, None]
        # By quadrature: the closed form of these moments cancels where h is small.
        density = h[..., None] * (-h[..., None] * (1 - u)).exp()
        higher = (density[..., None, :] * u ** powers[1:]) @ _WEIGHTS.to(h.device)
        moments = torch.cat([whole[..., None], higher], -1)
        weights = torch.linalg.solve(at[..., None, :] ** powers, moments[..., None])[..., 0].movedim(-1, 0)
    return list(weights) if tensors else weights.tolist()


def _weighted(weights: Sequence[Any], answers: Sequence[Tensor]) -> Tensor:
    total = weights[0] * answers[0]
    for weight, answer in zip(weights[1:], answers[1:], strict=True):
        total = total + weight * answer
    return total
