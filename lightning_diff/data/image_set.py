"""Examples in memory: pixels and labels, addressed by index."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64, Shaped, UInt8
from torch import Tensor

from ..condition import AnyCondition
from ..foundation.errors import UserError
from .classes import counted
from .decoded.mapped import Mapped

Indices = Int64[np.ndarray, " n"] | Int64[Tensor, " n"]

AT_ONCE = 2**28  # floats


class Origin(NamedTuple):
    """Where examples come from, for the line that a run begins with: folder or file, what labels were read from, remarks."""

    where: str = ""
    labels: str = ""
    notes: tuple[str, ...] = ()


NOWHERE = Origin()


@runtime_checkable
class Examples(Protocol):
    """What a stream, a metric or a picture reads: images in [-1, 1] (other units for what is no image) and labels.

    `labelled` says whether there are labels; `num_classes` is 0 without. `std()` is the standard deviation over all
    values, `fingerprint()` a sha256 of the content in hexadecimal digits. It may have `class_names` too, in order of
    label. Where `take` gives a `Condition` in place of labels, `condition_shapes` are its tensors' of one example, and
    `null_condition` is a row that stands for none. Where training chooses something anew at each position, such as a crop,
    there is a `take_at(indices, seed, positions)` beside `take`, of the same kind of result (`stream.taken`). Examples of
    several shapes say by `buckets`, a `buckets.Buckets`, which one has which: `shape` is that of samples, and those that are taken
    together are of one bucket.
    """

    name: str
    shape: tuple[int, ...]
    labelled: bool
    num_classes: int

    def __len__(self) -> int: ...
    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n ..."], AnyCondition | None]: ...
    def images(self, indices: Indices) -> Float32[Tensor, "n ..."]: ...
    def label(self, indices: Indices) -> Int64[Tensor, " n"]: ...
    def std(self) -> float: ...
    def fingerprint(self) -> str: ...


class InMemory:
    """Base of examples that lie in memory or in a mapped file: their labels, names and origin. A subclass holds their pixels.

    Args:
        labels, name, num_classes, origin, class_names, mapped, names: as of `ImageSet`.

    Raises:
        UserError: labels out of range; the first index is named.
    """

    def __init__(
        self,
        labels: Int64[Tensor, " n"] | None,
        name: str,
        num_classes: int,
        origin: Origin,
        class_names: Sequence[str],
        mapped: Mapped | None,
        names: Sequence[str],
    ):
        self.labels, self.name, self.origin, self.mapped = labels, name, origin, mapped
        self.labelled, self.class_names, self.names = labels is not None, tuple(class_names), tuple(names)
        self.num_classes = 0 if labels is None else _checked(name, labels, num_classes)

    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n ..."], Int64[Tensor, " n"] | None]:
        """Images and labels (None if unlabelled)."""
        return self.images(indices), None if self.labels is None else self.label(indices)

    def images(self, indices: Indices) -> Float32[Tensor, "n ..."]:
        raise NotImplementedError

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        """Raises UserError where there are none."""
        if self.labels is None:
            raise UserError(f"{self.name}: these images have no labels")
        return self.labels[torch.as_tensor(indices)]


class ImageSet(InMemory):
    """Examples that lie in memory, or in a file that is mapped into it.

    Args:
        pixels: uint8 (N, C, H, W), read as byte / 127.5 - 1; or float32 or float16 (N, ...), read as it is, in float32.
        labels: int64 (N,) in 0..num_classes-1, or None.
        name: what messages and reports call it.
        num_classes: 0 counts the labels: the greatest + 1.
        origin: where they come from.
        class_names: in order of label, as far as they are known.
        mapped: the file that the pixels were mapped from, and what is known of it: then nothing is computed from them.
        names: of the files that they are from, relative to `origin.where`; () where there are none.

    Raises:
        UserError: no examples, pixels that are not finite, labels out of range; the first index is named.
    """

    def __init__(
        self,
        pixels: UInt8[Tensor, "n c h w"] | Float32[Tensor, "n ..."] | Float16[Tensor, "n ..."],
        labels: Int64[Tensor, " n"] | None = None,
        name: str = "images",
        num_classes: int = 0,
        origin: Origin = NOWHERE,
        class_names: Sequence[str] = (),
        mapped: Mapped | None = None,
        names: Sequence[str] = (),
    ):
        if len(pixels) == 0:
            raise UserError(f"{name}: there are no images")
        is_new = pixels.is_floating_point() and mapped is None
        if is_new and not (finite := pixels.flatten(1).isfinite().all(1)).all():
            raise UserError(f"{name}: image {int((~finite).nonzero()[0])} holds NaN or infinite values")
        super().__init__(labels, name, num_classes, origin, class_names, mapped, names)
        self.pixels, self.shape = pixels.contiguous(), tuple(pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getstate__(self) -> dict[str, object]:
        """For another process, which maps the file by itself."""
        return self.__dict__ if self.mapped is None else self.__dict__ | {"pixels": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if self.mapped is not None:
            self.pixels = self.mapped.tensor()

    def images(self, indices: Indices) -> Float32[Tensor, "n ..."]:
        return as_values(self.pixels.index_select(0, torch.as_tensor(indices)))

    def std(self) -> float:
        """Standard deviation over all values, summed in float64."""
        return self.mapped.std if self.mapped is not None else std_of(self.pixels)

    def fingerprint(self) -> str:
        if self.mapped is not None:
            return self.mapped.fingerprint
        digest = hashlib.sha256(f"{self.pixels.dtype} {tuple(self.pixels.shape)} {self.labelled}".encode())
        digest.update(bytes_of(self.pixels))
        if self.labels is not None:
            digest.update(bytes_of(self.labels))
        return digest.hexdigest()


def as_values(pixels: Shaped[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Pixels, of which nobody else knows, as values."""
    return pixels.float() if pixels.is_floating_point() else pixels.float().div_(127.5).sub_(1)


def std_of(pixels: Shaped[Tensor, "..."]) -> float:
    """Standard deviation over all values, summed in float64."""
    if pixels.is_floating_point():
        if pixels.numel() <= AT_ONCE:
            return float(pixels.double().std(correction=0))
        parts = pixels.flatten().split(AT_ONCE)  # what may not fit into memory, twice as large
        middle = sum(float(part.double().sum()) for part in parts) / pixels.numel()
        squares = sum(float((part.double() - middle).square().sum()) for part in parts)
        return float((squares / pixels.numel()) ** 0.5)
    # Counting bytes is exact, so that the order of the images cannot matter.
    counts = torch.bincount(pixels.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    mean = (counts @ values) / counts.sum()
    return float(((counts @ (values - mean) ** 2) / counts.sum()).sqrt())


def _checked(name: str, labels: Int64[Tensor, " n"], num_classes: int) -> int:
    """The number of classes, 0 counting them. UserError for labels out of range."""
    num_classes = num_classes or counted(name, labels.tolist())
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise UserError(f"{name}: label {int(labels[i])} of image {i} is not in 0..{num_classes - 1}")
    return num_classes


def bytes_of(x: Shaped[Tensor, "..."]) -> memoryview:
    return x.contiguous().numpy().data.cast("B")
