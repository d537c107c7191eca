"""One image in any form that Python holds images in, to its pixels (C, H, W): bytes, or values in [-1, 1]."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image
from torch import Tensor

from .deep import ImageError, deep_colour
from .orientation import upright
from .resize import Framing

Pixels: TypeAlias = UInt8[np.ndarray, "..."] | Float32[np.ndarray, "..."]
Stored: TypeAlias = Shaped[np.ndarray, "..."]

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
COLOURS = (1, 3)  # channels that tell (C, H, W) from (H, W, C)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's L


@dataclass(frozen=True)
class Reading:
    """How the numbers of images become pixels: one for all images of a source (docs/data.md has the table).

    Args:
        channels: convert grey to 3 equal channels, or colours to grey; None leaves each image as it is.
        framing: how they come to one size; None leaves them as they are.
        value_range: (low, high) of floats, mapped to (-1, 1); None takes floats of any size as they are.
        white: the whole number that is white in images of more than 8 bits; None: 65,535 in those of 16 bits.
        layout: of arrays with three axes; None: where the 1 or 3 channels are.
    """

    channels: int | None = None
    framing: Framing | None = None
    value_range: tuple[float, float] | None = (-1.0, 1.0)
    white: int | None = None
    layout: Literal["CHW", "HWC"] | None = None

    def pixels(self, image: object) -> Pixels:
        """uint8 (C, H, W), black 0 and white 255, or float32, black -1 and white 1; of what is no image, any shape.

        Raises:
            ImageError: a form that cannot be read, or not without guessing.
        """
        stored, is_last = _stored(image), self.layout == "HWC"
        if stored.size == 0 or stored.ndim == 0:
            raise ImageError(f"has shape {stored.shape}, and no pixels")
        if isinstance(image, Image.Image):
            is_last = True
        elif stored.ndim == 3 and self.layout is None:
            is_last = _is_channels_last(stored)
        if stored.ndim == 2:
            stored = stored[None]
        elif stored.ndim == 3 and is_last:
            stored = stored.transpose(2, 0, 1)
        # Bytes (4, H, W) stay four channels unless channels says otherwise; (H, W, 4) is how everybody holds RGBA.
        is_alpha = stored.dtype.kind == "u" and stored.ndim == 3 and len(stored) in (2, 4)
        x = self._scaled(stored)
        if is_alpha and (is_last or self.channels in COLOURS):
            x = _on_white(x)
        if self.channels is not None and x.ndim == 3:
            x = with_channels(x, self.channels)
        return x if self.framing is None or x.ndim != 3 else self.framing.apply(x)

    def _scaled(self, x: Stored) -> Pixels:
        if x.dtype == np.bool_:
            return x.astype(np.uint8) * np.uint8(255)
        if x.dtype == np.uint8:
            return x
        if x.dtype.kind in "ui":
            return self._from_integers(x)
        if x.dtype.kind != "f":
            raise ImageError(f"is {x.dtype}; expected uint8, uint16, bool or floating point")
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise ImageError("holds NaN or infinite values")
        if self.value_range is None:
            return x
        low, high = self.value_range
        margin = 0.01 * (high - low)  # of resized images
        if x.min() < low - margin or x.max() > high + margin:
            raise ImageError(f"has values from {x.min():g} to {x.max():g}, outside value_range ({low:g}, {high:g})")
        return (x - low) * (2 / (high - low)) - 1

    def _from_integers(self, x: Stored) -> Float32[np.ndarray, "..."]:
        white = self.white or (65535 if x.dtype == np.uint16 else None)
        if white is None:
            raise ImageError(
                f"is {x.dtype}, of which nobody knows what is white; set white to that number, "
                "or give uint8, uint16 or floats"
            )
        if x.min() < 0 or x.max() > white:
            raise ImageError(f"has values from {x.min()} to {x.max()}, outside 0 to white={white}")
        return (x / (white / 2) - 1).astype(np.float32)


def with_channels(x: Pixels, channels: int) -> Pixels:
    """(C, H, W) as grey or as RGB."""
    if len(x) == channels:
        return x
    if len(x) == 1 and channels == 3:
        return np.repeat(x, 3, axis=0)
    if len(x) == 3 and channels == 1:
        if x.dtype == np.uint8:
            return np.asarray(Image.fromarray(np.ascontiguousarray(x.transpose(1, 2, 0))).convert("L"))[None]
        return np.tensordot(LUMA, x, 1)[None].astype(np.float32)
    raise ImageError(f"has {len(x)} channels; expected {channels}")


def _stored(image: object) -> Stored:
    """The numbers as they are held."""
    if isinstance(image, Image.Image):
        return _of_pil(image)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        if image.is_floating_point():
            image = image.float()  # numpy has no bfloat16
        if image.layout != torch.strided or image.is_quantized:
            raise ImageError("is a sparse or quantised tensor")
        return image.resolve_conj().resolve_neg().numpy()
    if image is None or isinstance(image, (str, bytes, dict, set)):
        raise ImageError(f"is no image but {type(image).__name__}")
    try:
        array = np.asarray(image)
    except Exception as error:  # whatever an object's __array__ does
        raise ImageError(f"is no image but {type(image).__name__} ({' '.join(str(error).split())})") from error
    if array.dtype.kind not in "?buifc":
        raise ImageError(f"is no image but {type(image).__name__}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _of_pil(image: Image.Image) -> Stored:
    """(H, W) or (H, W, C), upright."""
    if (deep := deep_colour(image)) is not None:
        return deep
    try:
        image.load()
    except EOFError as error:
        raise ImageError(f"is truncated ({error})") from error
    image = upright(image)
    if image.mode == "I" and image.format == "PPM":
        return np.asarray(image).astype(np.uint16)  # Pillow spreads any maxval over 16 bits
    if image.mode.startswith("I;16"):
        x = np.asarray(image).astype(np.uint16)
        clear = image.info.get("transparency")
        return x if clear is None else np.where(x == clear, np.uint16(65535), x)
    if image.mode in ("I", "F"):
        return np.asarray(image)
    is_grey = image.mode in GREY_MODES
    try:
        if image.has_transparency_data:
            image = image.convert("LA") if image.mode == "La" else image
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        mode = "L" if is_grey else "RGB"
        return np.asarray(image if image.mode == mode else image.convert(mode))
    except (ValueError, ImportError) as error:
        raise ImageError(f"has mode {image.mode}, which Pillow does not convert to RGB: {error}") from error


def _is_channels_last(x: Stored) -> bool:
    """Where the channels of an array with three axes are.

    Raises:
        ImageError: it could be both, and the image would be another.
    """
    first, middle, last = x.shape
    layers = (2, 4) if x.dtype.kind == "u" else ()  # grey or RGB with alpha, which floats seldom have
    both = (first in COLOURS and last in COLOURS and middle > 1 and max(first, last) > 1) or (
        first in layers and last in layers
    )
    if both:
        raise ImageError(f"has shape {x.shape}, which may be (C, H, W) or (H, W, C); set layout to CHW or HWC")
    if first in COLOURS or first in layers:
        return False
    if last in COLOURS or last in layers:
        return True
    if last in (2, 4) and first == middle != last:
        raise ImageError(f"has shape {x.shape}, which looks like (H, W, C); set layout to HWC, or to CHW if it is not")
    return False


def _on_white(x: Pixels) -> Pixels:
    """(C, H, W), the last channel of which is alpha, over white."""
    if x.dtype == np.uint8:
        layers = Image.fromarray(np.ascontiguousarray(x.transpose(1, 2, 0)))
        return np.moveaxis(np.atleast_3d(_of_pil(layers)), 2, 0)
    alpha = (x[-1:] + 1) / 2
    return x[:-1] * alpha + (1 - alpha)
