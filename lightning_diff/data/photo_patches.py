"""Patches of scikit-learn's two photographs: natural colour images that need no download."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from .bundled import bundled
from .image_set import ImageSet
from .source import Data

PHOTOGRAPHS = ("china", "flower")  # in order of their labels
TEST_COLUMNS = 160  # the right quarter of a photograph


@dataclass(eq=False, kw_only=True)
class PhotoPatches(Data):
    """Overlapping colour patches, 3 x size x size, of two photographs of 427x640 pixels; the label is the photograph.

    "china" by danielbuechele and "flower" by vultilion, CC-BY 2.0, bundled with scikit-learn. The right quarter of each
    is held out: no pixel belongs to both sets.

    Args:
        size: height and width of a patch, at most 160.
        stride: distance of neighbouring patches in pixels.
    """

    size: int = 32
    stride: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.size <= TEST_COLUMNS:
            raise ValueError(f"PhotoPatches: size must be in 1..{TEST_COLUMNS}, got {self.size}")
        if self.stride < 1:
            raise ValueError(f"PhotoPatches: stride must be at least 1, got {self.stride}")

    def load(self) -> tuple[ImageSet, ImageSet]:
        photographs = np.stack([np.asarray(Image.open(bundled("images", f"{name}.jpg"))) for name in PHOTOGRAPHS])
        return (
            self._patches(photographs[:, :, :-TEST_COLUMNS], "photo-patches train"),
            self._patches(photographs[:, :, -TEST_COLUMNS:], "photo-patches test"),
        )

    def _patches(self, photographs: UInt8[np.ndarray, "2 h w 3"], name: str) -> ImageSet:
        pixels = torch.from_numpy(photographs.copy()).permute(0, 3, 1, 2)
        windows = pixels.unfold(2, self.size, self.stride).unfold(3, self.size, self.stride)  # photo c row column h w
        patches = windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        return ImageSet(patches, torch.arange(2).repeat_interleave(len(patches) // 2), name)
