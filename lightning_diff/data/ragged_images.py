"""Examples in memory whose images have several sizes, one after the other: what crops are taken from, and what lies in buckets."""

import hashlib
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int64, Shaped
from torch import Tensor

from ..foundation.errors import UserError
from .decoded.mapped import Mapped, tensor_of
from .decoded.stores import Ragged
from .image_set import NOWHERE, InMemory, Origin, bytes_of, std_of
from .resize import Framing

F = TypeVar("F", bound=Framing)


class RaggedImages(InMemory, Generic[F]):
    """Base of examples that lie so; a subclass says what `images` gives of them.

    Args:
        images: as they are stored.
        framing: the size that stands for all: `shape`, with the images' channels.
        labels, name, num_classes, origin, class_names, mapped, names: as of `ImageSet`; of `mapped`, std and fingerprint are of
            the images as they are stored.

    Raises:
        UserError: no images, labels out of range; the first index is named.
    """

    def __init__(
        self,
        images: Ragged,
        framing: F,
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
        super().__init__(labels, name, num_classes, origin, class_names, mapped, names)
        self.values, self.shapes, self.framing = images.values, images.shapes, framing
        self.shape: tuple[int, ...] = (int(images.shapes[0, 0]), framing.height, framing.width)
        self.starts = np.concatenate([[0], np.cumsum(images.shapes.prod(1))])

    def __len__(self) -> int:
        return len(self.shapes)

    def __getstate__(self) -> dict[str, object]:
        """For another process, which maps the file by itself."""
        return self.__dict__ if self.mapped is None else self.__dict__ | {"values": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if self.mapped is not None:
            self.values = self.mapped.array()

    def std(self) -> float:
        """Standard deviation over all values of the images as they are stored."""
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

    def stored(self, i: int) -> Shaped[np.ndarray, "c h w"]:
        """Image i."""
        return self.values[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])
