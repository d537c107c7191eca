"""Stable Diffusion's autoencoder as EDM2 uses it (arXiv 2312.02696)."""

from pathlib import Path
from typing import ClassVar

from .diffusers import Diffusers
from .normalisation import Normalisation
from .pair import DType

# Of ImageNet's latents by channel, as the public code assumes; and the standard deviation that its models are given.
RAW_MEAN, RAW_STD, STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28), 0.5
EDM2_NORMALISATION = Normalisation([STD / std for std in RAW_STD], list(RAW_MEAN))


class EDM2(Diffusers):
    """The folder of `stabilityai/sd-vae-ft-mse` with the normalisation of EDM2's latents: by channel, to standard deviation 0.5.

    It is given images in (0, 1), as the public code does, and not in (-1, 1).

    Args:
        folder, tiling, dtype: see `Diffusers`.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("folder",)

    def __init__(self, folder: Path | str, *, tiling: bool = False, dtype: DType = "float32"):
        scale, shift = EDM2_NORMALISATION.scale, EDM2_NORMALISATION.shift
        super().__init__(folder, scale, shift, tiling=tiling, image_range=(0.0, 1.0), dtype=dtype)
