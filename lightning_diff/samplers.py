"""Solvers of the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma (EDM, arXiv 2206.00364, eq. 1, s(t) = 1), and the
sampler of models that answer with the ODE's end.

A sampler is one pure function  solver(denoise, x, sigmas, *, generator=None, ...) -> x  to be compared with its paper
line by line:

    denoise    callable (x, sigma) -> estimate of x0, with sigma a scalar tensor () in x's dtype and on x's device
    x          (B, ...) at noise level sigmas[0]: x = sigmas[0] * eps
    sigmas     (n+1,) strictly decreasing, the last one 0, float64 (see `schedules`): n steps
    generator  where fresh noise comes from, for the stochastic ones: a torch.Generator, or a callable (x, step) ->
               standard normal tensor like x (a pure function of its arguments keeps samples independent of the batch
               they are in), or None for torch's global state

Step sizes are Python floats, that is float64. x stays in its own dtype. EDM steps in float64; for a float32 network
that changes samples by 2e-7 (root mean square) and 1e-5 (at most) in 18 to 512 steps, a thousandth of an 8-bit rounding
step, as much as rounding the network's own answers does. Give a float64 x where it matters.
"""

import math
from collections.abc import Callable
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import UserError

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = torch.Generator | Callable[[Tensor, int], Tensor] | None
Solver = Callable[..., Tensor]


def euler(
    denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Float[Tensor, " nodes"], *, generator: Noise = None
) -> Float[Tensor, "b ..."]:
    """Euler's method, which is DDIM in these coordinates (arXiv 2206.00364, alg. 1 without its correction).

    Order 1, n calls. Deterministic: `generator` is accepted, as by every sampler, and not used.
    """
    for sigma, sigma_next in pairwise(check_sigmas(sigmas)):
        ratio = sigma_next / sigma
        # x + (sigma_next - sigma) (x - D) / sigma, written as a convex combination: nothing cancels, and sigma_next = 0
        # gives D exactly.
        x = ratio * x + (1 - ratio) * denoise(x, _level(sigma, x))
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
    nodes = check_sigmas(sigmas)
    n = len(nodes) - 1
    for i, (t, t_next) in enumerate(pairwise(nodes)):
        gamma = min(S_churn / n, math.sqrt(2) - 1) if S_min <= t <= S_max else 0.0
        t_hat = t + gamma * t
        if gamma > 0:
            x = x + math.sqrt(t_hat**2 - t**2) * S_noise * standard_normal(generator, x, i)
        D = denoise(x, _level(t_hat, x))
        if t_next == 0:
            x = D  # the Euler step to 0; its slope has no sigma to be corrected at
            continue
        d = (x - D) / t_hat
        x_next = x + (t_next - t_hat) * d
        d_prime = (x_next - denoise(x_next, _level(t_next, x))) / t_next
        x = x + (t_next - t_hat) * (d + d_prime) / 2
    return x


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
    for sigma, sigma_next in pairwise(check_sigmas(sigmas)):
        D = denoised = denoise(x, _level(sigma, x))
        ratio = sigma_next / sigma  # exp(-h)
        h = -math.log(ratio) if ratio > 0 else math.inf
        if D_previous is not None and h < math.inf:
            r = h_previous / h
            D = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * D_previous
        x = ratio * x + (1 - ratio) * D
        D_previous, h_previous = denoised, h
    return x


def consistency(
    denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Float[Tensor, " nodes"], *, generator: Noise = None
) -> Float[Tensor, "b ..."]:
    """Multistep consistency sampling (arXiv 2303.01469, alg. 1): for consistency models, whose answer is a sample.

    After the first answer, fresh noise up to the next level and another answer. n calls; with n = 1 deterministic. In TrigFlow's
    coordinates x_t = cos(t) x0 + sin(t) sigma_data eps is the same point, cos(t) times the one here.
    """
    first, *later = check_sigmas(sigmas)[:-1]
    x = denoise(x, _level(first, x))
    for step, sigma in enumerate(later, 1):
        x = x + sigma * standard_normal(generator, x, step)
        x = denoise(x, _level(sigma, x))
    return x


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "consistency": consistency}


def named(solver: str | Solver) -> Solver:
    """The sampler of that name; a callable is returned as it is. Raises UserError for an unknown name."""
    if not isinstance(solver, str):
        return solver
    if solver not in SOLVERS:
        near = get_close_matches(solver, SOLVERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SOLVERS)}."
        raise UserError(f"There is no solver {solver!r}: {hint}")
    return SOLVERS[solver]


def nfe(solver: str | Solver, sigmas: Float[Tensor, " nodes"], **options: Any) -> int:
    """Number of denoiser calls that this sampler makes on this grid, counted by running it.

    A guided call inside the guidance interval costs two network evaluations (see `guidance`) and counts as one here.
    """
    calls = 0

    def count(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x

    named(solver)(count, torch.zeros(1, 1), sigmas, generator=torch.Generator(), **options)
    return calls


def check_sigmas(sigmas: Float[Tensor, " nodes"]) -> list[float]:
    """The grid as Python floats. ValueError unless it is finite, strictly decreasing, ends in 0 and has at least two nodes."""
    nodes = sigmas.tolist()
    if len(nodes) < 2:
        raise ValueError(f"sigmas: need at least two noise levels, a start and 0, got {len(nodes)}")
    if not all(map(math.isfinite, nodes)):
        raise ValueError("sigmas: every noise level must be finite")
    for i, (sigma, sigma_next) in enumerate(pairwise(nodes)):
        if not sigma > sigma_next:
            raise ValueError(
                f"sigmas: must decrease strictly, but number {i} is {sigma:g} and number {i + 1} is {sigma_next:g}"
            )
    if nodes[-1] != 0:
        raise ValueError(f"sigmas: the last noise level must be 0, got {nodes[-1]:g}; append a 0")
    return nodes


def _level(sigma: float, x: Tensor) -> Float[Tensor, ""]:
    """Filled in on x's device: no copy from the host, so no wait."""
    return x.new_full((), sigma)


def standard_normal(generator: Noise, x: Float[Tensor, "b ..."], step: int) -> Float[Tensor, "b ..."]:
    """Fresh noise like x for this step, from whatever a sampler was given as its generator."""
    if generator is None:
        return torch.randn_like(x)
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    return generator(x, step)
