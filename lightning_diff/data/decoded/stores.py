"""Where decoded images go, one after the other: into memory, or into a file that is mapped afterwards."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from ...foundation.errors import UserError
from ..pixels import Pixels


class Ragged(NamedTuple):
    """Images of several sizes: all values one after the other, and (channels, height, width) of each."""

    values: Shaped[np.ndarray, " values"]
    shapes: Int64[np.ndarray, "n 3"]


@runtime_checkable
class Store(Protocol):
    """Takes images in their order. One of more than 8 bits makes floats of all."""

    def put(self, image: Pixels) -> None: ...
    def pixels(self) -> Pixels | Ragged:
        """(n, C, H, W) if all have one shape; to be called once, at the end."""


# The store for n images, of which the first is given; whether they may be of several sizes.
MakeStore: TypeAlias = Callable[[Pixels, int, bool], Store]


class InMemory:
    """Arguments as for `MakeStore`.

    Raises:
        UserError: there is no memory for so many.
    """

    def __init__(self, first: Pixels, n: int, ragged: bool):
        self.n, self.count = n, 0
        self.list: list[Pixels] | None = [] if ragged else None
        self.out: Pixels = self._room(first, n) if not ragged else first

    def put(self, image: Pixels) -> None:
        if self.list is not None:
            self.list.append(image)
            return
        if self.out.dtype != image.dtype and self.out.dtype == np.uint8:
            self.out = values(self.out)
        self.out[self.count] = image if self.out.dtype == image.dtype else values(image)
        self.count += 1

    def pixels(self) -> Pixels | Ragged:
        if self.list is None:
            return self.out
        if any(image.dtype != np.uint8 for image in self.list):
            self.list = [image if image.dtype == np.float32 else values(image) for image in self.list]
        shapes = np.array([image.shape for image in self.list], np.int64)
        return Ragged(np.concatenate([image.reshape(-1) for image in self.list]), shapes)

    @staticmethod
    def _room(first: Pixels, n: int) -> Pixels:
        try:
            return np.empty((n, *first.shape), first.dtype)
        except MemoryError as error:
            raise UserError(
                f"no memory for {n:,} images of {first.nbytes:,} bytes each; leave cache at auto, set size or limit, or read "
                "them one by one, through MapDataset"
            ) from error


class InFile:
    """A file of nothing but values; arguments as for `MakeStore`, and the file, which must not be there.

    Raises:
        OSError: it cannot be written, or the disk is full; so does `put`.
    """

    def __init__(self, first: Pixels, n: int, ragged: bool, path: Path):
        self.path, self.ragged, self.dtype = path, ragged, first.dtype
        self.shapes: list[tuple[int, ...]] = []
        self.file = path.open("xb")

    def put(self, image: Pixels) -> None:
        if image.dtype != self.dtype:
            if self.dtype == np.uint8:
                self._widen()
            else:
                image = values(image)
        self.file.write(np.ascontiguousarray(image).data)
        self.shapes.append(image.shape)

    def close(self) -> None:
        self.file.close()

    def pixels(self) -> Pixels | Ragged:
        self.file.close()
        flat = np.memmap(self.path, self.dtype, "r")
        if self.ragged:
            return Ragged(flat, np.array(self.shapes, np.int64))
        return flat.reshape(len(self.shapes), *self.shapes[0])

    def _widen(self) -> None:
        """Write what is there again, as floats."""
        self.file.close()
        narrow = self.path.with_suffix(".narrow")
        self.path.rename(narrow)
        self.dtype = np.dtype(np.float32)
        self.file = self.path.open("xb")
        with narrow.open("rb") as before:
            while part := before.read(1 << 20):
                self.file.write(values(np.frombuffer(part, np.uint8)).data)
        narrow.unlink()


def values(x: Pixels) -> Float32[np.ndarray, "..."]:
    """Bytes as values in [-1, 1]."""
    return x.astype(np.float32) / np.float32(127.5) - 1
