"""Many encoded images to one tensor: PNG, JPEG, .npy and others, from wherever their bytes come."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from tqdm import tqdm

from ..foundation.errors import UserError
from .deep import ImageError
from .formats import Read, has_frames, is_grey, opened
from .pixels import Pixels, Reading
from .span import Kind, Span, kind_of

CHUNK = 64  # images per task of the thread pool


class Decoded(NamedTuple):
    """Pixels of many images, uint8 if all are of 8 bits, else float32 in [-1, 1], and what there is to say about them."""

    pixels: UInt8[Tensor, "n c h w"] | Float32[Tensor, "n c h w"]
    notes: tuple[str, ...]


class _One(NamedTuple):
    """Pixels of one image, or what is wrong with it; how it was stored; whether it has several frames; whether it was grey."""

    pixels: Pixels | str
    kind: Kind = "bytes"
    has_frames: bool = False
    is_grey: bool = False


def count_channels(names: Sequence[str], read: Read) -> int:
    """1 if every image is grey, else 3. Stops at the first that is not."""
    return 1 if all(_is_grey(name, read) for name in names) else 3


def decode(where: str, names: Sequence[str], read: Read, reading: Reading) -> Decoded:
    """All these images, on threads, with a progress bar on a terminal if there are many.

    Args:
        where: the folder or file, for messages.
        names: of the images, for messages and for `read`; one that ends in .npy is an array.
        read: the bytes of the image of that name.
        reading: how they are read; with `channels`.

    Raises:
        UserError: images that cannot be decoded, or sizes that differ; names the first five and counts the rest. Too
            many for the memory.
    """
    out: Pixels | None = None
    broken: list[str] = []
    frames: list[str] = []
    grey = 0
    span = Span()
    sizes: Counter[tuple[int, ...]] = Counter()
    example: dict[tuple[int, ...], str] = {}
    bar = tqdm(total=len(names), desc=shown(where), unit=" images", disable=None if len(names) > 1000 else True)
    with bar, ThreadPoolExecutor() as pool:
        chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
        decoded = pool.map(lambda chunk: [_decode(name, read, reading) for name in chunk], chunks)
        for i, (name, one) in enumerate(zip(names, chain.from_iterable(decoded), strict=True)):
            bar.update()
            if isinstance(one.pixels, str):
                broken.append(f"{shown(name)} ({one.pixels})")
                continue
            if one.has_frames:
                frames.append(name)
            grey += one.is_grey
            if one.kind != "bytes":
                span.add(one.kind, float(one.pixels.min()), float(one.pixels.max()))
            sizes[one.pixels.shape] += 1
            example.setdefault(one.pixels.shape, name)
            if len(sizes) == 1:
                out = _put(where, out, len(names), i, one.pixels)
    if broken:
        raise UserError(f"{where}: {len(broken)} of {len(names)} images cannot be read: {some(broken)}")
    if len(sizes) > 1:
        kinds = [f"{count} of {w}x{h} such as {shown(example[c, h, w])}" for (c, h, w), count in sizes.most_common()]
        raise UserError(
            f"{where}: the images differ in size (width x height): {some(kinds)}; "
            "remove the odd ones, or set size to crop and shrink all to one"
        )
    assert out is not None
    span.count = len(out)
    if out.dtype == np.uint8:  # at once, because it is faster
        span.add("bytes", -1.0, int(out.max()) / 127.5 - 1)
    span.check(where, reading)
    notes = [f"the first frame of {some(frames)}"] if frames else []
    if reading.channels == 3 and grey:
        notes.append(f"{grey:,} of them grey, made RGB")
    if reading.channels == 1 and grey < len(names):
        notes.append(f"{len(names) - grey:,} of them coloured, made grey")
    return Decoded(torch.from_numpy(out), (*notes, *span.notes(reading)))


def some(names: Sequence[str]) -> str:
    """The first five, and how many more."""
    rest = len(names) - 5
    return ", ".join(map(shown, names[:5])) + (f" and {rest} more" if rest > 0 else "")


def shown(name: str) -> str:
    """A file's name as it can be printed, also where its bytes are no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _put(where: str, out: Pixels | None, n: int, i: int, image: Pixels) -> Pixels:
    """Write image i; one of more than 8 bits makes floats of all."""
    try:
        if out is None:
            out = np.empty((n, *image.shape), image.dtype)
        elif out.dtype != image.dtype and out.dtype == np.uint8:
            out = _values(out)
    except MemoryError as error:
        raise UserError(
            f"{where}: there is no memory for {n:,} images of {image.nbytes:,} bytes each; set size or limit, "
            "or read them one by one, through MapDataset"
        ) from error
    out[i] = image if out.dtype == image.dtype else _values(image)
    return out


def _values(x: Pixels) -> Float32[np.ndarray, "..."]:
    return x.astype(np.float32) / np.float32(127.5) - 1


def _is_grey(name: str, read: Read) -> bool:
    try:
        return is_grey(opened(name, read(name)))
    except Exception:  # reported by `decode`, with all others
        return True


def _decode(name: str, read: Read, reading: Reading) -> _One:
    try:
        image = opened(name, read(name))
        has_several, was_grey = has_frames(image), is_grey(image)
        pixels = reading.pixels(image)
        if pixels.ndim != 3:
            return _One(f"has shape {pixels.shape}")
        return _One(pixels, kind_of(pixels, image), has_several, was_grey)
    except ImageError as error:
        return _One(str(error))
    except Exception as error:  # decoders raise all kinds
        return _One(str(error).split("\n")[0] or type(error).__name__)
