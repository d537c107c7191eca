"""Examples that are parts of larger images: at another place each time that training shows one."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..foundation import rng
from .image_set import Indices, as_values
from .ragged_images import RaggedImages
from .resize import Framing


class Crops(RaggedImages[Framing]):
    """Images of several sizes, cropped to one: in the middle by `take`, by `take_at` where (seed, position) says.

    Args:
        images: as they are cropped from.
        framing: the size of the crops.
        labels, name, num_classes, origin, class_names, mapped, names: see `RaggedImages`.

    Raises:
        UserError: no images, labels out of range; the first index is named.
    """

    def take_at(
        self, indices: Indices, seed: int, positions: Int64[np.ndarray, " n"]
    ) -> tuple[Float32[Tensor, "n c h w"], Int64[Tensor, " n"] | None]:
        """The parts that training sees of these images at these positions, and their labels."""
        places = places_of(seed, positions)
        return self._cropped(indices, *places), None if self.labels is None else self.label(indices)

    def images(self, indices: Indices) -> Float32[Tensor, "n c h w"]:
        """The middle of these images."""
        middle: list[float | None] = [None] * len(indices)
        return self._cropped(indices, middle, middle)

    def _cropped(
        self, indices: Indices, down: Sequence[float | None], right: Sequence[float | None]
    ) -> Float32[Tensor, "n c h w"]:
        out = np.empty((len(indices), *self.shape), self.values.dtype)
        for row, (i, y, x) in enumerate(zip(indices.tolist(), down, right, strict=True)):
            out[row] = self.framing.crop(self.stored(i), y, x)
        return as_values(torch.from_numpy(out))


def places_of(seed: int, positions: Int64[np.ndarray, " n"]) -> tuple[list[float], list[float]]:
    """Where crops at these positions lie, in (0, 1): from the first row, and from the first column."""
    down, right = (rng.uniform(seed, f"crop {side}", positions).tolist() for side in ("down", "right"))
    return down, right
