"""The data set: stripes in four directions. Put your images in its place."""

import math

import torch
from torch import Tensor


class Stripes:
    """Stripes across size x size pixels: image i has direction i % 4, which is its label, and a phase of its own.

    `lightning_diff.data.MapDataset` takes any class with `__len__` and `__getitem__`. An item is (image, label); an image may be
    a PIL image, the bytes of an image file, or an array or tensor (H, W), (H, W, C) or (C, H, W). Reading an item twice must give
    the same: no random numbers here that do not follow from i. Flips and augmentation are options of MapDataset.

    Args:
        n: how many.
        first: number of the first one; held-out images begin where those to train with end.
        size: pixels, of height and width.
        waves: across the image.
    """

    classes: tuple[str, ...] = (
        "vertical",
        "rising",
        "horizontal",
        "falling",
    )  # names of the labels, for pictures and --labels

    def __init__(self, n: int, first: int = 0, size: int = 8, waves: float = 1.5):
        self.n, self.first, self.size, self.waves = n, first, size, waves

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        number = self.first + i
        label = number % len(self.classes)
        angle = label * math.pi / len(self.classes)
        phase = number * 0.6180339887 % 1.0  # the golden ratio's multiples fill the circle evenly
        axis = torch.arange(self.size) / self.size  # in [0, 1)
        along = axis[None, :] * math.cos(angle) + axis[:, None] * math.sin(angle)
        brightness = torch.sin(2 * math.pi * (self.waves * along + phase))  # in [-1, 1]
        return (127.5 * (brightness + 1)).round().to(torch.uint8), label
