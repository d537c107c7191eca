"""Random pictures, in the place of a data set that nobody needs to have: what is measured does not depend on what they show."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lightning_diff.data import Data
from lightning_diff.data.image_set import ImageSet


@dataclass(eq=False, kw_only=True)
class Pictures(Data):
    """`n` pictures of noise and their classes, a sixteenth of them held out.

    Args:
        size: (channels, height, width).
        classes: number of classes.
        n: number of pictures.
    """

    size: Sequence[int] = (3, 32, 32)
    classes: int = 10
    n: int = 4096

    def load(self) -> tuple[ImageSet, ImageSet]:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (self.n, *self.size), generator=generator, dtype=torch.uint8)
        label = torch.arange(self.n) % self.classes
        held_out = self.n // 16
        return (
            ImageSet(pixels[held_out:], label[held_out:], "pictures"),
            ImageSet(pixels[:held_out], label[:held_out], "pictures, held out"),
        )
