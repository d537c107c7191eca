"""EDM's sampler: Heun's method, with fresh noise between its steps if wanted."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Level, Noise, column, level, standard_normal
from .solver import Node, OdeSolver, Reached, follow


def step(
    denoise: Denoise, node: Node, sigma_next: Level, past: Sequence[Node] = (), left: int | None = None
) -> Reached:
    """Euler's step, and again with the mean of the slopes at both of its ends (arXiv 2206.00364, alg. 1, lines 4 to 8)."""
    x, d, h = node.x, node.slope, column(sigma_next - node.sigma, node.x)
    x_next = x + h * d
    d_prime = (x_next - denoise(x_next, level(sigma_next, x))) / column(sigma_next, x)
    return Reached(x + h * (d + d_prime) / 2)


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
    gamma = min(S_churn / (len(sigmas) - 1 or 1), math.sqrt(2) - 1)

    def churn(x: Tensor, t: Level, i: int) -> tuple[Tensor, Level]:
        if not S_min <= t <= S_max:
            return x, t
        t_hat = t + gamma * t
        return x + math.sqrt(t_hat**2 - t**2) * S_noise * standard_normal(generator, x, i), t_hat

    return follow(step, denoise, x, sigmas, churn=churn if gamma > 0 else None)


HEUN = OdeSolver("heun", heun, calls_per_step=2, takes_churn=True, step=step, order=2, two_step_order=2)
