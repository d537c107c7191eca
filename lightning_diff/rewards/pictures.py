"""Rewards that are formulas on pixels: known without a model, and so good for seeing what fine-tuning does."""

import io
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


class Brightness:
    """Mean of all pixels, in [-1, 1].

    Args:
        target: reward how near the mean comes to this, -|mean - target|, and not how large it is.
    """

    def __init__(self, target: float | None = None):
        self.target = target

    def __call__(self, images: Float[Tensor, "b c h w"], label: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        mean = images.mean((1, 2, 3))
        return mean if self.target is None else -(mean - self.target).abs()


class Ink:
    """How much of the picture is drawn on: mean |x - background| / 2, in [0, 1].

    Args:
        background: value of an empty pixel, in [-1, 1].
        target: reward how near this share is, -|share - target|, and not how large it is.
    """

    def __init__(self, background: float = -1.0, target: float | None = None):
        self.background, self.target = background, target

    def __call__(self, images: Float[Tensor, "b c h w"], label: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        share = (images - self.background).abs().mean((1, 2, 3)) / 2
        return share if self.target is None else -(share - self.target).abs()


class Symmetry:
    """How alike a picture and its mirror image are: 1 - mean |x - mirrored| / mean |x - its mean|.

    1 for a symmetric picture, about -0.4 where the halves have nothing to do with each other. The division keeps pictures from
    becoming symmetric by becoming empty; an empty one gets 0.

    Args:
        axis: "vertical" compares left and right, "horizontal" top and bottom.
    """

    def __init__(self, axis: Literal["vertical", "horizontal"] = "vertical"):
        if axis not in ("vertical", "horizontal"):
            raise ValueError(f"Symmetry: axis must be vertical or horizontal, got {axis!r}")
        self.axis = axis

    def __call__(self, images: Float[Tensor, "b c h w"], label: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        mirrored = images.flip(3 if self.axis == "vertical" else 2)
        difference = (images - mirrored).abs().mean((1, 2, 3))
        contrast = (images - images.mean((1, 2, 3), keepdim=True)).abs().mean((1, 2, 3))
        return torch.where(contrast > 1e-6, 1 - difference / contrast.clamp(min=1e-6), 0.0)


class Sharpness:
    """Variance of the Laplacian (4 x - its neighbours), the usual measure of focus; >= 0. Noise counts as sharp, too."""

    def __call__(self, images: Float[Tensor, "b c h w"], label: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        kernel = images.new_tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]).reshape(1, 1, 3, 3)
        laplacian = F.conv2d(images.flatten(0, 1)[:, None], kernel)
        return laplacian.reshape(len(images), -1).var(1, correction=0)


class JPEGCompressibility:
    """Minus the size of the picture as a JPEG file, in kilobytes (DDPO, arXiv 2305.13301).

    Args:
        quality: of the encoder, 1 to 95.
        sign: 1 rewards small files, -1 large ones ("incompressibility").
    """

    def __init__(self, quality: int = 95, sign: Literal[1, -1] = 1):
        if not 1 <= quality <= 95:
            raise ValueError(f"JPEGCompressibility: quality must be in 1..95, got {quality}")
        self.quality, self.sign = quality, sign

    def __call__(self, images: Float[Tensor, "b c h w"], label: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"JPEGCompressibility: images must have 1 or 3 channels, got {images.shape[1]}")
        pixels = (127.5 * (images + 1)).round().clamp(0, 255).to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        sizes = [self._bytes(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels]
        return -self.sign * torch.tensor(sizes, dtype=torch.float32, device=images.device) / 1000

    def _bytes(self, pixels: object) -> int:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=self.quality)  # type: ignore[arg-type]
        return file.tell()
