"""scikit-learn's scanned digits: real images that need no download."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

from ..foundation import rng
from .bundled import bundled
from .image_set import ImageSet
from .source import Data

TEST_IMAGES = 500


@dataclass(eq=False, kw_only=True)
class Digits(Data):
    """1,797 scans of handwritten digits, 1x8x8, in ten classes: 1,297 to train with, 500 held out, stratified by class.

    The UCI "Optical Recognition of Handwritten Digits" test set (Alpaydin & Kaynak, 1998), bundled with scikit-learn.
    Its values 0..16 are stored as bytes, round(value * 255 / 16), so that images span [-1, 1].

    Args:
        size: 8, or 16 for scans enlarged bilinearly.
    """

    size: Literal[8, 16] = 8

    def load(self) -> tuple[ImageSet, ImageSet]:
        table = np.loadtxt(bundled("data", "digits.csv.gz"), delimiter=",")
        scans = torch.from_numpy(table[:, :-1].reshape(-1, 1, 8, 8))
        if self.size != 8:
            scans = interpolate(scans, size=(self.size, self.size), mode="bilinear", align_corners=False)
        pixels = (scans * (255 / 16)).round().to(torch.uint8)
        labels = table[:, -1].astype(np.int64)
        order = rng.permutation(0, "digits", 0, len(labels))
        order = order[np.argsort(labels[order], kind="stable")]  # sorted by class: evenly spaced choices are stratified
        held_out = np.zeros(len(labels), bool)
        held_out[order[np.arange(TEST_IMAGES) * len(labels) // TEST_IMAGES]] = True
        label = torch.from_numpy(labels)
        return (
            ImageSet(pixels[~held_out], label[~held_out], "digits train"),
            ImageSet(pixels[held_out], label[held_out], "digits test"),
        )
