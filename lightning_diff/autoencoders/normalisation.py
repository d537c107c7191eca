"""Scale and shift between what an encoder gives and what a denoiser is trained on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Factor = int | float | Sequence[int | float]  # one for all channels, or one for each


@dataclass(frozen=True)
class Normalisation:
    """latent = (z - shift) * scale, for z as an encoder gives it (`AutoencoderKL`'s pipelines in diffusers; rows of EDM2's).

    Args:
        scale: not 0; one number, or one for each channel.
        shift: likewise.
    """

    scale: Factor = 1.0
    shift: Factor = 0.0

    def __post_init__(self) -> None:
        for name, values in (("scale", self.scale), ("shift", self.shift)):
            numbers = _numbers(values)
            if not numbers or not all(math.isfinite(number) for number in numbers):
                raise ValueError(f"{name}: expected a finite number, or one for each channel, got {values!r}")
        if 0 in _numbers(self.scale):
            raise ValueError(f"scale: latents times 0 are nothing, got {self.scale!r}")

    def apply(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Latents."""
        return (z - _column(self.shift, z)) * _column(self.scale, z)

    def undo(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What a decoder takes."""
        return latents / _column(self.scale, latents) + _column(self.shift, latents)

    def width(self, std: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The standard deviation of a latent whose z has this one."""
        return std * _column(self.scale, std).abs()

    def std(self, mean: Sequence[float], variance: Sequence[float]) -> float:
        """Over all values of latents whose z have these means and variances, by channel.

        The variance over all is the mean of the channels' and the variance of their means.
        """
        scale, shift = (torch.tensor(_numbers(each), dtype=torch.float64) for each in (self.scale, self.shift))
        means = (torch.tensor(mean, dtype=torch.float64) - shift) * scale
        variances = torch.tensor(variance, dtype=torch.float64) * scale**2
        return float((variances.mean() + means.var(correction=0)).sqrt())

    def refuse_unfit(self, channels: int, where: str) -> None:
        """ValueError where there is a number for each of another number of channels."""
        for name, values in (("scale", self.scale), ("shift", self.shift)):
            if len(numbers := _numbers(values)) not in (1, channels):
                raise ValueError(f"{where}: {len(numbers)} numbers for {name}, and latents of {channels} channels")

    def __str__(self) -> str:
        return f"scale {_shown(self.scale)}, shift {_shown(self.shift)}"


def _numbers(values: Factor) -> list[float]:
    return [float(values)] if isinstance(values, int | float) else [float(value) for value in values]


def _column(values: Factor, like: Tensor) -> Tensor:
    return torch.tensor(_numbers(values), dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def _shown(values: Factor) -> str:
    return ", ".join(f"{number:.5g}" for number in _numbers(values))
