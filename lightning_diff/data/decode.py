"""Encoded images to pixels: PNG, JPEG, WebP, BMP, .npy, from wherever their bytes come."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from ..foundation.errors import UserError

Read = Callable[[str], bytes]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".npy")
GREY_MODES = ("1", "L", "LA")
CHUNK = 64  # images per task of the thread pool


def count_channels(names: Sequence[str], read: Read) -> int:
    """1 if every image is grey, else 3. Stops at the first that is not."""
    return 1 if all(_is_grey(name, read) for name in names) else 3


def decode(
    where: str, names: Sequence[str], read: Read, channels: int, size: int | None = None
) -> UInt8[Tensor, "n c h w"]:
    """All these images, on threads, with a progress bar on a terminal if there are many.

    Args:
        where: the folder or file, for messages.
        names: of the images, for messages and for `read`; one that ends in .npy is an array.
        read: the bytes of the image of that name.
        channels: 1 or 3.
        size: crop to the central square and average down to size x size; None: as they are.

    Raises:
        UserError: images that cannot be decoded, or sizes that differ; names the first five and counts the rest.
    """
    out: UInt8[np.ndarray, "n c h w"] | None = None
    broken: list[str] = []
    sizes: Counter[tuple[int, ...]] = Counter()
    example: dict[tuple[int, ...], str] = {}
    bar = tqdm(total=len(names), desc=where, unit=" images", disable=None if len(names) > 1000 else True)
    with bar, ThreadPoolExecutor() as pool:
        chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
        decoded = pool.map(lambda chunk: [_decode(name, read, channels, size) for name in chunk], chunks)
        for i, (name, image) in enumerate(zip(names, chain.from_iterable(decoded), strict=True)):
            bar.update()
            if isinstance(image, str):
                broken.append(f"{name} ({image})")
                continue
            sizes[image.shape] += 1
            example.setdefault(image.shape, name)
            if out is None:
                out = np.empty((len(names), *image.shape), np.uint8)
            if len(sizes) == 1:
                out[i] = image
    if broken:
        raise UserError(f"{where}: {len(broken)} of {len(names)} images cannot be read: {some(broken)}")
    if len(sizes) > 1:
        kinds = [f"{count} of {w}x{h} such as {example[c, h, w]}" for (c, h, w), count in sizes.most_common()]
        raise UserError(
            f"{where}: the images differ in size (width x height): {some(kinds)}; "
            "remove the odd ones, or set size to crop and shrink all to one"
        )
    assert out is not None
    return torch.from_numpy(out)


def some(names: Sequence[str]) -> str:
    """The first five, and how many more."""
    rest = len(names) - 5
    return ", ".join(names[:5]) + (f" and {rest} more" if rest > 0 else "")


def _is_grey(name: str, read: Read) -> bool:
    try:
        return _open(name, read(name)).mode in GREY_MODES
    except Exception:  # reported by `decode`, with all others
        return True


def _decode(name: str, read: Read, channels: int, size: int | None) -> UInt8[np.ndarray, "c h w"] | str:
    """Pixels, or what is wrong."""
    try:
        image = _open(name, read(name))
        if "exif" in image.info:
            image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if size is not None:
            image = _shrink(image, size)
        pixels = np.asarray(image).reshape(image.height, image.width, channels)
    except UnidentifiedImageError:
        return "no image, or of an unknown kind"
    except Exception as error:  # decoders raise all kinds
        return str(error).split("\n")[0] or type(error).__name__
    return pixels.transpose(2, 0, 1)


def _open(name: str, content: bytes) -> Image.Image:
    if not name.lower().endswith(".npy"):
        image = Image.open(BytesIO(content))
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"mode {image.mode}: more than 8 bits per channel")
        return image
    array = np.load(BytesIO(content), allow_pickle=False)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(f"{array.dtype} array of shape {array.shape}: expected uint8 (H, W), (H, W, C) or (C, H, W)")
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def _shrink(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    if side < size:
        raise ValueError(f"{image.width}x{image.height} is smaller than size={size}")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.BOX, box=(left, top, left + side, top + side))
