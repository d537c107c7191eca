"""Examples that are parts of larger images: at another place each time that training shows one."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..foundation import rng
from ..foundation.errors import UserError
from .decoded.mapped import Mapped, tensor_of
from .decoded.stores import Ragged
from .image_set import NOWHERE, Indices, Origin, as_values, bytes_of, checked_labels, labels_at, std_of
from .resize import Framing


class Crops:
    """Images of several sizes, cropped to one: in the middle by `take`, by `take_at` where (seed, position) says.

    Args:
        images: as they are cropped from.
        framing: the size of the crops.
        labels, name, num_classes, origin, class_names, mapped, names: as of `ImageSet`; of `mapped`, std and fingerprint are of
            the images that are cropped from.

    Raises:
        UserError: labels out of range; the first index is named.
    """

    def __init__(
        self,
        images: Ragged,
        framing: Framing,
        labels: Int64[Tensor, " n"] | None = None,
        name: str = "images",
        num_classes: int = 0,
        origin: Origin = NOWHERE,
        class_names: Sequence[str] = (),
        mapped: Mapped | None = None,
        names: Sequence[str] = (),
    ):
        if len(images.shapes) == 0:
            raise UserError(f"{name}: there are no images")
        self.values, self.shapes, self.framing, self.mapped = images.values, images.shapes, framing, mapped
        self.starts = np.concatenate([[0], np.cumsum(images.shapes.prod(1))])
        self.labels, self.name, self.origin, self.class_names = labels, name, origin, tuple(class_names)
        self.shape: tuple[int, ...] = (int(images.shapes[0, 0]), framing.height, framing.width)
        self.labelled, self.names = labels is not None, tuple(names)
        self.num_classes = 0 if labels is None else checked_labels(name, labels, num_classes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getstate__(self) -> dict[str, object]:
        """For another process, which maps the file by itself."""
        return self.__dict__ if self.mapped is None else self.__dict__ | {"values": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if self.mapped is not None:
            self.values = self.mapped.array()

    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n c h w"], Int64[Tensor, " n"] | None]:
        """The middle of these images, and their labels (None if unlabelled)."""
        return self.images(indices), None if self.labels is None else self.label(indices)

    def take_at(
        self, indices: Indices, seed: int, positions: Int64[np.ndarray, " n"]
    ) -> tuple[Float32[Tensor, "n c h w"], Int64[Tensor, " n"] | None]:
        """The parts that training sees of these images at these positions."""
        places = places_of(seed, positions)
        return self._cropped(indices, *places), None if self.labels is None else self.label(indices)

    def images(self, indices: Indices) -> Float32[Tensor, "n c h w"]:
        middle: list[float | None] = [None] * len(indices)
        return self._cropped(indices, middle, middle)

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        return labels_at(self.name, self.labels, indices)

    def std(self) -> float:
        """Standard deviation over all values of the images that are cropped from."""
        return self.mapped.std if self.mapped is not None else std_of(tensor_of(self.values))

    def fingerprint(self) -> str:
        if self.mapped is not None:
            return self.mapped.fingerprint
        digest = hashlib.sha256(f"{self.values.dtype} {self.shape} {self.labelled}".encode())
        digest.update(np.ascontiguousarray(self.shapes).data.cast("B"))
        digest.update(self.values.data.cast("B"))
        if self.labels is not None:
            digest.update(bytes_of(self.labels))
        return digest.hexdigest()

    def _cropped(
        self, indices: Indices, down: Sequence[float | None], right: Sequence[float | None]
    ) -> Float32[Tensor, "n c h w"]:
        out = np.empty((len(indices), *self.shape), self.values.dtype)
        for row, (i, y, x) in enumerate(zip(indices.tolist(), down, right, strict=True)):
            image = self.values[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])
            out[row] = self.framing.crop(image, y, x)
        return as_values(torch.from_numpy(out))


def places_of(seed: int, positions: Int64[np.ndarray, " n"]) -> tuple[list[float], list[float]]:
    """Where crops at these positions lie, in (0, 1): from the first row, and from the first column."""
    down, right = (rng.uniform(seed, f"crop {side}", positions).tolist() for side in ("down", "right"))
    return down, right
