"""Colours of 16 bits per channel in PNG files, of which Pillow by itself keeps the high byte."""

import re
from io import BytesIO

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image
from PIL.ImageFile import ImageFile

from .orientation import upright


class ImageError(ValueError):
    """What is wrong with one image, as the end of a sentence that begins with its name."""


DEEP = re.compile(r"(RGB[AaX]*|LA|CMYK|[RGBACMYK]);16[BLNS]*")


def deep_colour(image: Image.Image) -> UInt16[np.ndarray, "h w c"] | None:
    """All 16 bits of an image that was opened and not yet loaded; None if it has no such colours.

    Raises:
        ImageError: it has, in another format than PNG.
    """
    if not isinstance(image, ImageFile) or not image.tile:
        return None
    rawmodes = _rawmodes(image)
    if "I;12" in rawmodes:
        raise ImageError("has 12 bits per value; save it with 8 or 16")
    if image.format == "TIFF" and image.mode[0] in "IF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
        raise ImageError(f"has mode {image.mode} in which 0 is white; save it with 0 for black")
    if not any(DEEP.fullmatch(rawmode) for rawmode in rawmodes):
        return None
    if image.format != "PNG":
        raise ImageError(f"has colours of 16 bits per channel in {image.format}; save it as PNG, or with 8 bits")
    return _both_bytes(_content(image), rawmodes.pop())


def is_deep_grey(image: Image.Image) -> bool:
    """Whether it is grey with alpha, 16 bits each, which Pillow reads as RGBA."""
    return isinstance(image, ImageFile) and any(rawmode.startswith("LA;16") for rawmode in _rawmodes(image))


def _rawmodes(image: ImageFile) -> set[str]:
    """How the file holds its pixels, in Pillow's words."""
    arguments = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in image.tile]
    if (
        image.format == "PPM"
        and image.mode == "RGB"
        and any(len(args) > 1 and int(args[1]) > 255 for args in arguments)
    ):
        return {"RGB;16B"}
    return {str(args[0]) for args in arguments if args}


def _both_bytes(content: bytes, rawmode: str) -> UInt16[np.ndarray, "h w c"]:
    """Big-endian pairs of bytes, read as if they were pixels of 8 bits, twice or with twice the channels."""
    if rawmode.startswith("LA"):
        pairs = _read_as(content, "RGBA", "RGBA").astype(np.uint16)
        return pairs[..., 0::2] << 8 | pairs[..., 1::2]
    mode = rawmode.split(";")[0]
    high, low = (_read_as(content, mode, f"{mode};16{order}").astype(np.uint16) for order in "BL")
    x: UInt16[np.ndarray, "h w c"] = high << 8 | low
    return x


def _read_as(content: bytes, mode: str, rawmode: str) -> UInt8[np.ndarray, "h w c"]:
    image = Image.open(BytesIO(content), formats=["PNG"])
    image._mode = mode  # what `Image.open` sets from the header, and decoding reads
    image.tile = [tile._replace(args=rawmode) for tile in image.tile]
    image.load()
    if (clear := image.info.get("transparency")) is not None:
        raise ImageError(f"has colours of 16 bits of which one, {clear}, is transparent; save it with an alpha channel")
    return np.asarray(upright(image))


def _content(image: ImageFile) -> bytes:
    """The whole file; the image can be loaded afterwards."""
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(0)
    content: bytes = image.fp.read()
    image.fp.seek(place)
    return content
