"""Many encoded images to one tensor: PNG, JPEG, .npy and others, from wherever their bytes come."""

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ..foundation.errors import UserError
from ..foundation.progress import stage
from .decoded.stores import InMemory, MakeStore, Ragged, Store
from .deep import ImageError
from .formats import Read, has_frames, is_grey, opened
from .pixels import Pixels, Reading
from .span import Kind, Span, kind_of

CHUNK = 64  # images per task of the thread pool
AHEAD = 2 * ((os.cpu_count() or 1) + 4)  # tasks, of as many threads as the pool starts by itself


class Decoded(NamedTuple):
    """Pixels of many images, uint8 if all are of 8 bits, else float32 in [-1, 1], and what there is to say about them.

    Of one shape (n, C, H, W), unless they are to be cropped at random, or lie in buckets.
    """

    pixels: Pixels | Ragged
    notes: tuple[str, ...]


class One(NamedTuple):
    """Pixels of one image, or what is wrong with it; how it was stored; whether it has several frames; whether it was grey."""

    pixels: Pixels | str
    kind: Kind = "bytes"
    has_frames: bool = False
    is_grey: bool = False


def count_channels(names: Sequence[str], read: Read) -> int:
    """1 if every image is grey, else 3. Stops at the first that is not."""
    return 1 if all(_is_grey(name, read) for name in names) else 3


def decode(where: str, names: Sequence[str], read: Read, reading: Reading, make: MakeStore = InMemory) -> Decoded:
    """All these images, on threads, with a progress bar on a terminal if there are many.

    Args:
        where: the folder or file, for messages.
        names: of the images, for messages and for `read`; one that ends in .npy is an array.
        read: the bytes of the image of that name.
        reading: how they are read; with `channels`.
        make: the place for their pixels.

    Raises:
        UserError: images that cannot be decoded, or sizes that differ; names the first five and counts the rest. Too
            many for the memory.
    """
    gathered = _Gathered(where, len(names), reading, make)
    with stage("decoding", len(names), "image", shown=len(names) > 1000) as bar:
        for name, one in zip(names, decoded_in_order(names, read, reading), strict=True):
            bar.advance()
            gathered.add(name, one)
    return gathered.result()


def decoded_in_order(names: Sequence[str], read: Read, reading: Reading) -> Iterator["One"]:
    """Each of these images, decoded on threads not far ahead of whoever takes them; arguments as for `decode`."""
    chunks = (names[i : i + CHUNK] for i in range(0, len(names), CHUNK))
    ahead: deque[Future[list[One]]] = deque()
    with ThreadPoolExecutor() as pool:
        for chunk in chunks:
            ahead.append(pool.submit(lambda chunk: [_decode(name, read, reading) for name in chunk], chunk))
            if len(ahead) > AHEAD:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def some(names: Sequence[str]) -> str:
    """The first five, and how many more."""
    rest = len(names) - 5
    return ", ".join(map(shown, names[:5])) + (f" and {rest} more" if rest > 0 else "")


def shown(name: str) -> str:
    """A file's name as it can be printed, also where its bytes are no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Gathered:
    """The images so far, and what is to be said about them; arguments as for `decode`, n of `names`."""

    def __init__(self, where: str, n: int, reading: Reading, make: MakeStore):
        self.where, self.n, self.reading, self.make = where, n, reading, make
        self.store: Store | None = None
        self.broken: list[str] = []
        self.frames: list[str] = []
        self.grey = 0
        self.span = Span()
        self.brightest = 0  # of the bytes
        self.sizes: Counter[tuple[int, ...]] = Counter()
        self.example: dict[tuple[int, ...], str] = {}
        self.ragged = reading.framing is not None and reading.framing.ragged

    def add(self, name: str, one: One) -> None:
        if isinstance(one.pixels, str):
            self.broken.append(f"{shown(name)} ({one.pixels})")
            return
        if one.has_frames:
            self.frames.append(name)
        self.grey += one.is_grey
        if one.kind != "bytes":
            self.span.add(one.kind, float(one.pixels.min()), float(one.pixels.max()))
        elif self.brightest < 255:
            self.brightest = max(self.brightest, int(one.pixels.max()))
        self.sizes[one.pixels.shape] += 1
        self.example.setdefault(one.pixels.shape, name)
        if not self.broken and (len(self.sizes) == 1 or self.ragged):
            self._put(one.pixels)

    def _put(self, image: Pixels) -> None:
        try:
            if self.store is None:
                self.store = self.make(image, self.n, self.ragged)
            self.store.put(image)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error

    def result(self) -> Decoded:
        if self.broken:
            raise UserError(f"{self.where}: {len(self.broken)} of {self.n} images cannot be read: {some(self.broken)}")
        if len(self.sizes) > 1 and not self.ragged:
            most = self.sizes.most_common()
            kinds = [f"{count} of {w}x{h} such as {shown(self.example[c, h, w])}" for (c, h, w), count in most]
            raise UserError(
                f"{self.where}: the images differ in size (width x height): {some(kinds)}; remove the odd ones, or set size, and "
                "resize to centre_crop, random_crop, pad or stretch"
            )
        assert self.store is not None
        self.span.count = self.n
        pixels = self.store.pixels()
        if (pixels.values if isinstance(pixels, Ragged) else pixels).dtype == np.uint8:
            self.span.add("bytes", -1.0, self.brightest / 127.5 - 1)
        self.span.check(self.where, self.reading)
        return Decoded(pixels, (*self._notes(), *self.span.notes(self.reading)))

    def _notes(self) -> list[str]:
        notes = [f"the first frame of {some(self.frames)}"] if self.frames else []
        if self.reading.channels == 3 and self.grey:
            notes.append(f"{self.grey:,} of them grey, made RGB")
        if self.reading.channels == 1 and self.grey < self.n:
            notes.append(f"{self.n - self.grey:,} of them coloured, made grey")
        return notes


def _is_grey(name: str, read: Read) -> bool:
    try:
        return is_grey(opened(name, read(name)))
    except Exception:  # reported by `decode`, with all others
        return True


def _decode(name: str, read: Read, reading: Reading) -> One:
    try:
        image = opened(name, read(name))
        has_several, was_grey = has_frames(image), is_grey(image)
        pixels = reading.pixels(image)
        if pixels.ndim != 3:
            return One(f"has shape {pixels.shape}")
        return One(pixels, kind_of(pixels, image), has_several, was_grey)
    except ImageError as error:
        return One(str(error))
    except Exception as error:  # decoders raise all kinds
        return One(str(error).split("\n")[0] or type(error).__name__)
