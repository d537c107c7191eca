"""A start at pure noise, sigma = infinity, where flow models begin: one step of Euler's down to a finite level."""

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..condition import AnyCondition
from ..foundation.errors import UserError
from .protocol import Denoise, Noise, Sampler, level


def starts_endless(sigmas: Float[Tensor, " nodes"]) -> bool:
    """Whether the grid's first noise level is infinity."""
    return len(sigmas) > 0 and math.isinf(sigmas[0].item())


def solve(
    sampler: Sampler,
    denoise: Denoise,
    eps: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " nodes"],
    *,
    from_noise: Denoise | None = None,
    generator: Noise = None,
    **options: Any,
) -> Float[Tensor, "b ..."]:
    """Samples from standard normal noise: the sampler from x = sigmas[0] eps on, or from pure noise.

    With sigmas[0] = infinity, x_s = (1 - s) x0 + s eps has the slope v = eps - D along s and is eps at s = 1; a straight step to
    s' = sigma' / (1 + sigma') gives (1 - s') D + s' eps, which is x = D + sigma' eps in the coordinate of the samplers.

    Args:
        sampler, denoise, sigmas, generator, options: see `samplers`; only the first of `sigmas` may be infinity.
        eps: standard normal.
        from_noise: callable (eps, infinity) -> D at pure noise; needed there.
    """
    if not starts_endless(sigmas):
        return sampler(denoise, sigmas[0].item() * eps, sigmas, generator=generator, **options)
    if from_noise is None:
        raise ValueError("sigmas: infinity as the first noise level needs a model that knows pure noise")
    D = from_noise(eps, level(math.inf, eps))
    if len(sigmas) == 2:
        return D
    return sampler(denoise, D + sigmas[1].item() * eps, sigmas[1:], generator=generator, **options)


class AtPureNoise:
    """A denoiser at sigma = infinity, called as the others are: (eps, infinity, label) -> D."""

    def __init__(self, denoiser: Callable[..., Tensor]):
        self.denoiser = denoiser
        self.net = getattr(denoiser, "net", None)
        self.kind = getattr(denoiser, "kind", "denoiser")

    def __call__(
        self, eps: Tensor, sigma: Tensor, label: AnyCondition | None = None, **conditioning: Tensor | None
    ) -> Tensor:
        found: Tensor = self.denoiser.from_noise(eps, label, **conditioning)  # type: ignore[attr-defined]
        return found


def refuse_endless(denoiser: object, sigmas: Float[Tensor, " nodes"]) -> None:
    """UserError for a grid from infinity and a model that is not defined there."""
    if denoiser is not None and starts_endless(sigmas) and not getattr(denoiser, "knows_pure_noise", False):
        raise UserError(
            "sigma_max: this model's time or prediction is not defined at sigma = infinity; start at a finite noise level"
        )


def finite(sigmas: Float[Tensor, " nodes"]) -> tuple[int, Float[Tensor, " rest"]]:
    """Steps from infinity, 0 or 1, and the grid that is left for the sampler (one node, 0, where nothing is)."""
    return (1, sigmas[1:]) if starts_endless(sigmas) else (0, sigmas)
