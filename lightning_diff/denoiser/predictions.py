"""What a network may predict, and how EDM's F follows from it.

Every parametrisation of a denoiser is affine in the network's output. With x = x0 + sigma eps,
u = x / sqrt(sigma^2 + sigma_data^2), which has variance one, and the angle t = arctan(sigma / sigma_data), a network is used by
three numbers for each noise level:

    F = skip u + out network(scale u, time),      D = sigma_data (cos(t) u + sin(t) F).

Written in cos(t) and sin(t) they are finite wherever the network's prediction determines D: at pure noise, t = pi/2, for all but
`epsilon`; at no noise, t = 0, for all but `sample`, whose F there is 0 / 0.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Coefficients(NamedTuple):
    """Of one parametrisation at some noise levels, each (B,) float64: F = skip u + out network(scale u, time)."""

    scale: Float[Tensor, " b"]
    skip: Float[Tensor, " b"]
    out: Float[Tensor, " b"]


Prediction = Literal["edm", "trigflow", "epsilon", "v_prediction", "sample", "flow"]
Formula = Callable[[Float[Tensor, " b"], Float[Tensor, " b"], float], Coefficients]


def edm(cos: Tensor, sin: Tensor, sigma_data: float) -> Coefficients:
    """F itself (EDM, arXiv 2206.00364, eq. 7)."""
    one = torch.ones_like(cos)
    return Coefficients(one, torch.zeros_like(cos), one)


def trigflow(cos: Tensor, sin: Tensor, sigma_data: float) -> Coefficients:
    """-F, the velocity dx_t/dt over sigma_data (sCM, arXiv 2410.11081, section 3)."""
    one = torch.ones_like(cos)
    return Coefficients(one, torch.zeros_like(cos), -one)


def epsilon(cos: Tensor, sin: Tensor, sigma_data: float) -> Coefficients:
    """The noise eps, at the variance-preserving input x / sqrt(1 + sigma^2) (DDPM, arXiv 2006.11239): D = x - sigma eps."""
    return Coefficients(sigma_data / _vp_norm(cos, sin, sigma_data), sin / cos, -1 / cos)


def v_prediction(cos: Tensor, sin: Tensor, sigma_data: float) -> Coefficients:
    """v = a eps - b x0 at the input x_s = a x = a x0 + b eps with a^2 + b^2 = 1 (arXiv 2202.00512): D = a x_s - b v."""
    norm = _vp_norm(cos, sin, sigma_data)
    return Coefficients(sigma_data / norm, sin * cos * (1 - sigma_data**2) / norm**2, -1 / norm)


def sample(cos: Tensor, sin: Tensor, sigma_data: float) -> Coefficients:
    """x0 itself, at the variance-preserving input x / sqrt(1 + sigma^2)."""
    return Coefficients(sigma_data / _vp_norm(cos, sin, sigma_data), -cos / sin, 1 / (sigma_data * sin))


def flow(cos: Tensor, sin: Tensor, sigma_data: float) -> Coefficients:
    """v = eps - x0 at the input (1 - s) x0 + s eps, s = sigma / (1 + sigma) (rectified flow, arXiv 2209.03003): D = x_s - s v."""
    norm = cos + sigma_data * sin  # cos(t) (1 + sigma)
    return Coefficients(sigma_data / norm, (sin - sigma_data * cos) / norm, -1 / norm)


PREDICTIONS: dict[str, Formula] = {
    "edm": edm,
    "trigflow": trigflow,
    "epsilon": epsilon,
    "v_prediction": v_prediction,
    "sample": sample,
    "flow": flow,
}


def cos_sin(sigma: Float[Tensor, " b"], sigma_data: float) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Of t = arctan(sigma / sigma_data), in float64, for sigma in [0, infinity] with both ends."""
    sigma = sigma.double()
    data = torch.full_like(sigma, sigma_data)
    return data / torch.hypot(sigma, data), 1 / torch.hypot(torch.ones_like(sigma), data / sigma)


def rates(formula: Formula, cos: Tensor, sin: Tensor, sigma_data: float) -> Coefficients:
    """The derivatives of the coefficients with respect to ln sigma, for which d cos = -cos sin^2 and d sin = cos^2 sin."""
    primals, tangents = (cos, sin), (-cos * sin**2, cos**2 * sin)
    return Coefficients(*torch.func.jvp(lambda c, s: tuple(formula(c, s, sigma_data)), primals, tangents)[1])


def _vp_norm(cos: Tensor, sin: Tensor, sigma_data: float) -> Tensor:
    """cos(t) sqrt(1 + sigma^2)."""
    return (cos**2 + (sigma_data * sin) ** 2).sqrt()
