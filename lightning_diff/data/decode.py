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

from ..foundation.errors import UserError
from ..foundation.progress import stage
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
    gathered = _Gathered(where, len(names), reading)
    with stage("decoding", len(names), "image", shown=len(names) > 1000) as bar, ThreadPoolExecutor() as pool:
        chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
        decoded = pool.map(lambda chunk: [_decode(name, read, reading) for name in chunk], chunks)
        for i, (name, one) in enumerate(zip(names, chain.from_iterable(decoded), strict=True)):
            bar.advance()
            gathered.add(i, name, one)
    return gathered.result()


def some(names: Sequence[str]) -> str:
    """The first five, and how many more."""
    rest = len(names) - 5
    return ", ".join(map(shown, names[:5])) + (f" and {rest} more" if rest > 0 else "")


def shown(name: str) -> str:
    """A file's name as it can be printed, also where its bytes are no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Gathered:
    """The images so far, and what is to be said about them; arguments as for `decode`, n of `names`."""

    def __init__(self, where: str, n: int, reading: Reading):
        self.where, self.n, self.reading = where, n, reading
        self.out: Pixels | None = None
        self.broken: list[str] = []
        self.frames: list[str] = []
        self.grey = 0
        self.span = Span()
        self.sizes: Counter[tuple[int, ...]] = Counter()
        self.example: dict[tuple[int, ...], str] = {}

    def add(self, i: int, name: str, one: _One) -> None:
        if isinstance(one.pixels, str):
            self.broken.append(f"{shown(name)} ({one.pixels})")
            return
        if one.has_frames:
            self.frames.append(name)
        self.grey += one.is_grey
        if one.kind != "bytes":
            self.span.add(one.kind, float(one.pixels.min()), float(one.pixels.max()))
        self.sizes[one.pixels.shape] += 1
        self.example.setdefault(one.pixels.shape, name)
        if len(self.sizes) == 1:
            self._put(i, one.pixels)

    def _put(self, i: int, image: Pixels) -> None:
        """Write image i; one of more than 8 bits makes floats of all."""
        try:
            if self.out is None:
                self.out = np.empty((self.n, *image.shape), image.dtype)
            elif self.out.dtype != image.dtype and self.out.dtype == np.uint8:
                self.out = _values(self.out)
        except MemoryError as error:
            raise UserError(
                f"{self.where}: there is no memory for {self.n:,} images of {image.nbytes:,} bytes each; set size or limit, "
                "or read them one by one, through MapDataset"
            ) from error
        self.out[i] = image if self.out.dtype == image.dtype else _values(image)

    def result(self) -> Decoded:
        if self.broken:
            raise UserError(f"{self.where}: {len(self.broken)} of {self.n} images cannot be read: {some(self.broken)}")
        if len(self.sizes) > 1:
            most = self.sizes.most_common()
            kinds = [f"{count} of {w}x{h} such as {shown(self.example[c, h, w])}" for (c, h, w), count in most]
            raise UserError(
                f"{self.where}: the images differ in size (width x height): {some(kinds)}; "
                "remove the odd ones, or set size to crop and shrink all to one"
            )
        assert self.out is not None
        self.span.count = self.n
        if self.out.dtype == np.uint8:  # at once, because it is faster
            self.span.add("bytes", -1.0, int(self.out.max()) / 127.5 - 1)
        self.span.check(self.where, self.reading)
        return Decoded(torch.from_numpy(self.out), (*self._notes(), *self.span.notes(self.reading)))

    def _notes(self) -> list[str]:
        notes = [f"the first frame of {some(self.frames)}"] if self.frames else []
        if self.reading.channels == 3 and self.grey:
            notes.append(f"{self.grey:,} of them grey, made RGB")
        if self.reading.channels == 1 and self.grey < self.n:
            notes.append(f"{self.n - self.grey:,} of them coloured, made grey")
        return notes


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
