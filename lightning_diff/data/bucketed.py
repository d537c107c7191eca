"""Examples of several shapes: each has that of its bucket, and those that are taken together have one."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from .buckets import Bucketing, Buckets
from .decoded.mapped import Mapped
from .decoded.stores import Ragged
from .image_set import NOWHERE, Indices, Origin, as_values
from .ragged_images import RaggedImages


class Bucketed(RaggedImages):
    """Images in buckets. `shape` is the one that stands for all; `take` and `images` give the shape of their images' bucket.

    Args:
        images: in the sizes of their buckets.
        framing: the buckets.
        labels, name, num_classes, origin, class_names, mapped, names: see `RaggedImages`.

    Raises:
        UserError: no images, labels out of range; the first index is named.
    """

    def __init__(
        self,
        images: Ragged,
        framing: Bucketing,
        labels: Int64[Tensor, " n"] | None = None,
        name: str = "images",
        num_classes: int = 0,
        origin: Origin = NOWHERE,
        class_names: Sequence[str] = (),
        mapped: Mapped | None = None,
        names: Sequence[str] = (),
    ):
        channels = int(images.shapes[0, 0]) if len(images.shapes) else 0
        shape = (channels, framing.height, framing.width)
        super().__init__(images, shape, labels, name, num_classes, origin, class_names, mapped, names)
        self.framing = framing
        sizes, where = np.unique(images.shapes[:, 1:], axis=0, return_inverse=True)
        numbers = np.array([framing.sizes.index((height, width)) for height, width in sizes.tolist()], np.int64)
        shapes = tuple((channels, *size) for size in framing.sizes)
        self.buckets = Buckets(shapes, numbers[where.reshape(-1)], framing.sizes)

    def images(self, indices: Indices) -> Float32[Tensor, "n c h w"]:
        """In their bucket's size. UserError where they are of several buckets."""
        shape = self.buckets.shape_of(indices, self.name) if len(indices) else self.shape
        out = np.empty((len(indices), *shape), self.values.dtype)
        for row, i in enumerate(indices.tolist()):
            out[row] = self.stored(i)
        return as_values(torch.from_numpy(out))
