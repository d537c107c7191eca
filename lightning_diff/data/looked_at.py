"""One item of a map-style dataset as it was read, and what some of them tell about all."""

import hashlib
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from .formats import has_frames
from .image_set import as_values
from .pixels import Pixels
from .span import Kind, Span


class Item(NamedTuple):
    """One item: pixels and class, and how its image was stored."""

    pixels: Pixels
    label: int | None
    kind: Kind
    stored: object

    @property
    def image(self) -> Float32[Tensor, "..."]:
        """In [-1, 1], or in other units for what is no image."""
        return as_values(torch.from_numpy(np.require(self.pixels, requirements=("C", "W"))))


class LookedAt:
    """Sums over the items that were looked at, and their hash.

    Args:
        begin: what the hash begins with.
    """

    def __init__(self, begin: str):
        self.begin = begin.encode()
        self.digest = hashlib.sha256(self.begin)
        self.count, self.total, self.squares, self.span = 0, 0.0, 0.0, Span()
        self.labels: list[int] = []
        self.frames: list[int] = []

    def add(self, item: Item, i: int) -> None:
        image, label = item.image, item.label
        values = image.double()
        if has_frames(item.stored):
            self.frames.append(i)
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())
        self.span.count += 1
        self.span.add(item.kind, float(image.min()), float(image.max()))
        if label is not None:
            self.labels.append(label)
        self.digest.update(image.contiguous().numpy().tobytes())
        self.digest.update(str(label).encode())

    def std(self) -> float:
        return math.sqrt(max(self.squares / self.count - (self.total / self.count) ** 2, 0.0))
