"""The samplers one step at a time, for noise levels that are not known beforehand and differ among samples."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..schedules.costs import ORDERS, Past, step
from . import Denoise
from .multistep import ADAMS_BASHFORTH, exponential_weights

Levels = Float[Tensor, " b"]
IPNDM_ORDER, UNIPC_ORDER = 4, 3  # the samplers' defaults


class Stepwise:
    """A solution under way: what the sampler of that name does on each sample's own grid, call for call.

    Args:
        denoise: callable (x, sigma (B,)) -> x0.
        solver: a name in `costs.ORDERS`.
        steps: how many there will be; unipc lowers its order towards the end.
    """

    def __init__(self, denoise: Denoise, solver: str, steps: int):
        if solver not in ORDERS:
            raise ValueError(f"Stepwise: solver must be one of {', '.join(ORDERS)}, got {solver!r}")
        self.denoise, self.solver, self.left = denoise, solver, steps
        self._past: Past | None = None
        self._slopes: list[Tensor] = []  # ipndm's, the newest first
        self._answers: list[tuple[Levels, Tensor]] = []  # unipc's ln sigma and D, the newest first
        self._ahead: Tensor | None = None  # unipc's answer at the node where it is

    def __call__(
        self, x: Float[Tensor, "b *s"], sigma: Levels, sigma_next: Levels, *, denoised: Tensor | None = None
    ) -> Float[Tensor, "b *s"]:
        """x at sigma_next, which is 0 at the last of the steps; `denoised` is D(x; sigma) if it is known."""
        D = self._ahead  # unipc goes on with the answer at the node as it predicted it
        if D is None:
            D = self.denoise(x, sigma.to(x.dtype)) if denoised is None else denoised
        self.left -= 1
        if self.left == 0:
            return D  # Euler's step to 0, of every solver
        if self.solver == "ipndm":
            self._slopes = [(x - D) / _column(sigma, x), *self._slopes][:IPNDM_ORDER]
            weights = ADAMS_BASHFORTH[len(self._slopes)]
            moved = sum(weight * slope for weight, slope in zip(weights, self._slopes, strict=True))
            return x + _column(sigma_next - sigma, x) * moved
        if self.solver == "unipc":
            return self._unipc(x, D, sigma, sigma_next)
        ahead = step(self.denoise, x, sigma, sigma_next, self.solver, past=self._past, denoised=D)
        self._past = Past(sigma, x, D)
        return ahead

    def _unipc(self, x: Tensor, D: Tensor, sigma: Levels, sigma_next: Levels) -> Tensor:
        self._answers = [(sigma.log(), D), *self._answers][: min(UNIPC_ORDER, self.left + 1)]
        h, kept = (sigma / sigma_next).log(), _column(sigma_next / sigma, x) * x
        places = [(self._answers[0][0] - log_sigma) / h for log_sigma, _ in self._answers]
        answers = [answer for _, answer in self._answers]
        guess = kept + _weighted(exponential_weights(h, places), answers)
        self._ahead = self.denoise(guess, sigma_next.to(x.dtype))
        weights = exponential_weights(h, [*places, torch.ones_like(h)])
        return kept + _weighted(weights, [*answers, self._ahead])


def _weighted(weights: list[Levels], answers: list[Tensor]) -> Tensor:
    return sum(
        (_column(weight, a) * a for weight, a in zip(weights, answers, strict=True)), torch.zeros_like(answers[0])
    )


def _column(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
