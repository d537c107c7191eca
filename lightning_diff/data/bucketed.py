"""Examples of several shapes: each has that of its bucket, and those that are taken together have one."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from .buckets import Bucketing, Buckets
from .image_set import Indices, as_values
from .ragged_images import RaggedImages


class Bucketed(RaggedImages[Bucketing]):
    """Images in buckets. `shape` is the one that stands for all; `take` and `images` give the shape of their images' bucket.

    Args:
        images: in the sizes of their buckets.
        framing: the buckets.
        labels, name, num_classes, origin, class_names, mapped, names: see `RaggedImages`.

    Raises:
        UserError: no images, labels out of range; the first index is named.
    """

    @cached_property
    def buckets(self) -> Buckets:
        """Which image is in which of the framing's sizes."""
        sizes, where = np.unique(self.shapes[:, 1:], axis=0, return_inverse=True)
        numbers = np.array([self.framing.sizes.index((height, width)) for height, width in sizes.tolist()], np.int64)
        shapes = tuple((self.shape[0], *size) for size in self.framing.sizes)
        return Buckets(shapes, numbers[where.reshape(-1)], self.framing.sizes)

    def images(self, indices: Indices) -> Float32[Tensor, "n c h w"]:
        """In their bucket's size. UserError where they are of several buckets."""
        shape = self.buckets.shape_of(indices, self.name) if len(indices) else self.shape
        out = np.empty((len(indices), *shape), self.values.dtype)
        for row, i in enumerate(indices.tolist()):
            out[row] = self.stored(i)
        return as_values(torch.from_numpy(out))
