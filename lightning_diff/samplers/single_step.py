"""Solvers whose step knows nothing of the steps before it."""

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Noise, level, levels, standard_normal


def euler(
    denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Float[Tensor, " nodes"], *, generator: Noise = None
) -> Float[Tensor, "b ..."]:
    """Euler's method, which is DDIM in these coordinates (arXiv 2206.00364, alg. 1 without its correction).

    Order 1, n calls. Deterministic: `generator` is accepted, as by every sampler, and not used.
    """
    for sigma, sigma_next in pairwise(levels(sigmas)):
        ratio = sigma_next / sigma
        # x + (sigma_next - sigma) (x - D) / sigma, written as a convex combination: nothing cancels, and sigma_next = 0
        # gives D exactly.
        x = ratio * x + (1 - ratio) * denoise(x, level(sigma, x))
    return x


def heun(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " nodes"],
    *,
    generator: Noise = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
) -> Float[Tensor, "b ..."]:
    """EDM's stochastic sampler (arXiv 2206.00364, alg. 2); with S_churn = 0 its deterministic one (alg. 1).

    Order 2, 2n - 1 calls.

    Args:
        S_churn: amount of fresh noise, >= 0: the noise level is first raised by the factor
            1 + min(S_churn / n, sqrt(2) - 1).
        S_min, S_max: noise is added only at levels S_min <= sigma <= S_max.
        S_noise: standard deviation of the fresh noise, slightly above 1 against the denoiser's loss of detail.
    """
    nodes = levels(sigmas)
    n = len(nodes) - 1
    for i, (t, t_next) in enumerate(pairwise(nodes)):
        gamma = min(S_churn / n, math.sqrt(2) - 1) if S_min <= t <= S_max else 0.0
        t_hat = t + gamma * t
        if gamma > 0:
            x = x + math.sqrt(t_hat**2 - t**2) * S_noise * standard_normal(generator, x, i)
        D = denoise(x, level(t_hat, x))
        if t_next == 0:
            x = D  # the Euler step to 0; its slope has no sigma to be corrected at
            continue
        d = (x - D) / t_hat
        x_next = x + (t_next - t_hat) * d
        d_prime = (x_next - denoise(x_next, level(t_next, x))) / t_next
        x = x + (t_next - t_hat) * (d + d_prime) / 2
    return x
