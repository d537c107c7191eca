"""A model's own trajectories, on which grids are learned."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..condition import AnyCondition
from ..samplers import Denoise, Node
from .costs import heun_step

Model = Callable[..., Tensor]
Labels = AnyCondition | None


def parts(
    denoiser: Model, noise: Float[Tensor, "b *s"], labels: Labels, batch: int
) -> Iterator[tuple[Denoise, Float[Tensor, "part *s"]]]:
    """The rows of noise in parts of `batch`, each with the model that knows their labels, as a callable (x, sigma) -> x0.

    Args:
        denoiser: callable (x, sigma, label) -> x0, or without labels (x, sigma) -> x0.
        labels: a class for each row, or None.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if labels is not None and len(labels) != len(noise):
        raise ValueError(f"labels: need one for each row of noise, got {len(labels)} for {len(noise)}")
    for start in range(0, len(noise), batch):
        rows = slice(start, start + batch)
        yield denoiser if labels is None else partial(denoiser, label=labels[rows]), noise[rows]


@torch.no_grad()
def path(denoise: Denoise, x: Float[Tensor, "b *s"], levels: Float[Tensor, " m"]) -> list[Node]:
    """The trajectories through x at levels[0], by one Heun step to each next level: at each of them (level, x, D(x; level)).

    levels: (m,) decreasing; the last one may be 0, where D is x. 2m - 1 calls, one less with the 0.
    """
    points = []
    for i, (sigma, is_end) in enumerate(zip(levels, (levels == 0).tolist(), strict=True)):
        D = x if is_end else denoise(x, sigma.to(x.dtype))
        points.append(Node(sigma, x, D))
        if i + 1 < len(levels):
            x = heun_step(denoise, x, sigma, levels[i + 1], denoised=D)
    return points
