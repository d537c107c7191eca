"""What a reward is, and a call that checks it."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ..foundation.errors import UserError

TOLERANCE = 1e-3  # beyond [-1, 1]: rounding of images that were clipped in another precision


@runtime_checkable
class Reward(Protocol):
    """Images (B, C, H, W) in [-1, 1] and labels (B,) -> rewards (B,), larger is better."""

    def __call__(self, images: Tensor, label: Tensor) -> Tensor: ...


def name_of(reward: object) -> str:
    """Its attribute `name`, or what its function or class is called."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__)


def needs_label(reward: object) -> bool:
    """Its attribute `needs_label`: whether it depends on the class, so that it has no meaning for a model without."""
    return bool(getattr(reward, "needs_label", False))


@torch.no_grad()
def scored(reward: Reward, images: Float[Tensor, "b *s"], label: Int64[Tensor, " b"]) -> Float32[Tensor, " b"]:
    """The rewards of these images, checked, in float32.

    Args:
        reward: any callable (images, label) -> (B,).
        images: in [-1, 1]; clip samples first.
        label: their classes.

    Raises:
        ValueError: images outside [-1, 1].
        UserError: a reward that returns something else than one finite number for each image; it is named.
    """
    if len(images) and not images.abs().max() <= 1 + TOLERANCE:
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"scored: rewards take images in [-1, 1], got {low:.3g} to {high:.3g}; clip them first")
    name, values = name_of(reward), reward(images, label)
    if not isinstance(values, Tensor) or values.shape != (len(images),):
        what = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(
            f"The reward {name} must return a tensor of shape ({len(images)},), one number for each image, got {what}."
        )
    values = values.to(images.device, torch.float32)
    bad = values.isfinite().logical_not().nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"The reward {name} is {values[bad[0]].item()} for {len(bad)} of {len(images)} images, first number {bad[0]} "
            f"(label {label[bad[0]].item()}): rewards must be finite."
        )
    return values
