"""What the samplers share: what a denoiser and a source of noise are, what a grid must be, and arithmetic with noise levels."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = torch.Generator | Callable[[Tensor, int], Tensor] | None
Sampler = Callable[..., Tensor]
Level = float | Float[Tensor, ""] | Float[Tensor, " b"]
"""A noise level, or a number made of noise levels: one for all samples, as a float or a tensor (), or one for each, (B,)."""


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


def levels(sigmas: Float[Tensor, " nodes"]) -> Sequence[Level]:
    """The checked grid as what solvers compute with: Python floats, or tensors () where gradients to the grid are wanted."""
    checked = check_sigmas(sigmas)
    return list(sigmas) if sigmas.requires_grad else checked


def level(sigma: Level, x: Tensor) -> Float[Tensor, ""] | Float[Tensor, " b"]:
    """In x's dtype and on its device; a float is filled in there: no copy from the host, so no wait."""
    return sigma.to(x) if isinstance(sigma, Tensor) else x.new_full((), sigma)


def log(value: Level) -> Level:
    """ln of a float or a tensor."""
    return value.log() if isinstance(value, Tensor) else math.log(value)


def column(value: Level, x: Float[Tensor, "b *s"]) -> float | Float[Tensor, "..."]:
    """What x can be multiplied by: one number for each sample becomes (B, 1, ...) of x's dtype, others stay as they are."""
    if isinstance(value, Tensor) and value.ndim:
        return value.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return value


def combined(weights: Sequence[Level], tensors: Sequence[Float[Tensor, "b *s"]]) -> Float[Tensor, "b *s"]:
    """sum_j weights_j tensors_j."""
    total = column(weights[0], tensors[0]) * tensors[0]
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        total = total + column(weight, tensor) * tensor
    return total


def standard_normal(generator: Noise, x: Float[Tensor, "b ..."], step: int) -> Float[Tensor, "b ..."]:
    """Fresh noise like x for this step, from whatever a sampler was given as its generator."""
    if generator is None:
        return torch.randn_like(x)
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    return generator(x, step)
