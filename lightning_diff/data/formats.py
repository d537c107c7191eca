"""Encoded images: which files are images, and their bytes opened, not yet read as pixels."""

from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
from jaxtyping import Shaped
from PIL import Image, UnidentifiedImageError

from .deep import ImageError, is_deep_grey
from .pixels import GREY_MODES

Read = Callable[[str], bytes]

_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
_LOSSLESS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".npy")
SUFFIXES = (*_LOSSLESS, *_LOSSY)
# By content, whatever the name; not those that start other programs (EPS), nor those whose depth cannot be known (JPEG 2000).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "PPM")
STILL = ("MPO",)  # a camera's photograph and its preview


def opened(name: str, content: bytes) -> Image.Image | Shaped[np.ndarray, "..."]:
    """A PIL image whose pixels are not yet loaded, or for a name in .npy an array.

    Raises:
        ImageError: of an unknown kind.
    """
    if not content:
        raise ImageError("is empty")
    if name.lower().endswith(".npy"):
        array: Shaped[np.ndarray, ...] = np.load(BytesIO(content), allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.ndim not in (2, 3):
            raise ImageError(f"has shape {getattr(array, 'shape', None)}; expected (H, W), (H, W, C) or (C, H, W)")
        return array
    try:
        return Image.open(BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        raise ImageError("is no image, or of an unknown kind") from None


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def has_frames(image: object) -> bool:
    """Whether it is animated or has several pages; the first one is read."""
    return bool(isinstance(image, Image.Image) and image.format not in STILL and getattr(image, "is_animated", False))


def is_grey(image: Image.Image | Shaped[np.ndarray, "..."]) -> bool:
    """Whether an opened image has no colours, without reading its pixels."""
    if isinstance(image, Image.Image):
        return image.mode in GREY_MODES or is_deep_grey(image)
    return image.ndim == 2 or not {3, 4} & {image.shape[0], image.shape[2]}
