"""Guidance: extrapolate from a worse denoiser through the one at hand.

    D_guided = D_guide + scale (D - D_guide)

Classifier-free guidance (arXiv 2207.12598): the guide is the same model without its label. Autoguidance (arXiv
2406.02507): a smaller or less trained model with the same label. A guidance interval (arXiv 2404.07724): only at the
noise levels where it helps.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..condition import AnyCondition


def guided(
    denoiser: Callable[..., Tensor],
    label: AnyCondition | None = None,
    *,
    scale: float = 1.0,
    guide: Callable[..., Tensor] | None = None,
    interval: tuple[float, float] = (0.0, math.inf),
) -> Callable[[Tensor, Tensor], Tensor]:
    """The callable denoise(x, sigma) that a sampler takes: the labels bound, guidance applied.

    Args:
        denoiser: callable (x, sigma, label) -> x0.
        label: classes, numbers of prompts, a `Condition`, or None.
        scale: 1 is no guidance and costs no second evaluation; 0 is the guide alone; above 1 extrapolates.
            (The first paper's w is scale - 1.)
        guide: callable (x, sigma, label) -> x0, given the same label. None: the denoiser itself without a label.
            A network without classes ignores the label, and so is an unconditional guide.
        interval: (low, high) with low <= high: guide where low < sigma <= high; elsewhere scale is 1, and the second
            evaluation is saved.

    A network that takes the scale as an input (`nets`: guided=True) receives it instead, at the cost of one evaluation; a guide is
    then refused.

    Raises ValueError where there is nothing to be guided by: scale differs from 1, but there is neither a guide nor a
    label.
    """
    if not math.isfinite(scale):
        raise ValueError(f"guidance: scale must be finite, got {scale}")
    low, high = interval
    if not low <= high:
        raise ValueError(f"guidance: need low <= high in the interval, got {low} and {high}")
    if scale != 1 and guide is None and label is None:
        raise ValueError(
            f"guidance: scale {scale:g} needs a label (the guide is then the model without it) or a guide, got neither"
        )

    if takes_scale(denoiser):
        if guide is not None:
            raise ValueError("guidance: the network takes the scale as an input and needs no guide")
        return _by_input(denoiser, label, scale, interval)
    if scale != 1 and getattr(denoiser, "kind", "denoiser") == "consistency":
        raise ValueError("guidance: this consistency model was distilled without guidance and cannot be guided")

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        D = denoiser(x, sigma, label)
        if scale == 1:
            return D
        inside = (low < sigma) & (sigma <= high)
        if not inside.any():
            return D
        D_guide = denoiser(x, sigma, None) if guide is None else guide(x, sigma, label)
        D_guided = D_guide + scale * (D - D_guide)
        return torch.where(inside.reshape(-1, *[1] * (x.ndim - 1)), D_guided, D)

    return denoise


def takes_scale(denoiser: object) -> bool:
    """Whether a denoiser's network has an input for the guidance scale."""
    return bool(getattr(getattr(denoiser, "net", None), "guided", False))


def _by_input(
    denoiser: Callable[..., Tensor], label: AnyCondition | None, scale: float, interval: tuple[float, float]
) -> Callable[[Tensor, Tensor], Tensor]:
    low, high = interval

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        inside = (low < sigma) & (sigma <= high)
        scales = torch.where(inside, scale, 1.0).to(x.dtype).expand(len(x))
        return denoiser(x, sigma, label, guidance=scales)

    return denoise
