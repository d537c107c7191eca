"""DPM-Solver++(2M)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Level, Noise, combined, log
from .solver import Node, OdeSolver, Reached, follow


def step(
    denoise: Denoise, node: Node, sigma_next: Level, past: Sequence[Node] = (), left: int | None = None
) -> Reached:
    """With alpha = 1 and lambda = -ln sigma, x_i = (sigma_i / sigma_{i-1}) x_{i-1} - (exp(-h_i) - 1) D_i, where h_i =
    lambda_i - lambda_{i-1}, r_i = h_{i-1} / h_i and D_i = (1 + 1/(2 r_i)) D(x_{i-1}) - 1/(2 r_i) D(x_{i-2})."""
    ratio = sigma_next / node.sigma  # exp(-h)
    D = node.denoised
    if past:
        r = -log(node.sigma / past[0].sigma) / -log(ratio)
        D = combined([1 + 1 / (2 * r), -1 / (2 * r)], [D, past[0].denoised])
    return Reached(combined([ratio, 1 - ratio], [node.x, D]))


def dpmpp_2m(
    denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Float[Tensor, " nodes"], *, generator: Noise = None
) -> Float[Tensor, "b ..."]:
    """DPM-Solver++(2M), the multistep one in data prediction (arXiv 2211.01095, alg. 2). Order 2, n calls.

    The first step has no past and the last one an infinite h, so both are of first order. Deterministic: `generator` is accepted,
    as by every sampler, and not used.
    """
    return follow(step, denoise, x, sigmas, keeps=1)


DPMPP_2M = OdeSolver("dpmpp_2m", dpmpp_2m, step=step, order=2, keeps=1, two_step_order=2)
