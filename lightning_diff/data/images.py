"""A folder or a zip of images, in EDM's layout or any other, read into memory once."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ..foundation import rng
from ..foundation.errors import UserError
from .decode import count_channels, decode
from .image_files import ImageFiles
from .image_set import ImageSet
from .source import Data


@dataclass(eq=False, kw_only=True)
class Images(Data):
    """Image files of one size: PNG, JPEG, WebP, BMP, or uint8 arrays (.npy) of shape (H, W), (H, W, C) or (C, H, W).

    Labels come from `dataset.json`, {"labels": [[name, class], ...]}, as EDM's dataset tool writes it; without one, the
    folders at the top are the classes, in alphabetical order, if there are two or more and every image lies in one;
    else there are none. Images are grey if all are, else RGB; what is transparent lies on white.

    Args:
        path: the folder or zip.
        test_path: folder or zip of held-out images, in the same form.
        test_fraction: without test_path, the share in [0, 1) to hold out, chosen by a hash of each name, so that adding
            images moves none.
        limit: train with at most this many images, a random choice that is always the same; None for all.
        size: crop images to their central squares and average them down to size x size; None leaves them as they are.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("path",)  # the images themselves are compared

    path: str | Path
    test_path: str | Path | None = None
    test_fraction: float = 0.0
    limit: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"Images: test_fraction must be in [0, 1), got {self.test_fraction}")
        if self.test_path is not None and self.test_fraction:
            raise ValueError("Images: give test_path or test_fraction, not both")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"Images: limit must be at least 1, got {self.limit}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"Images: size must be at least 1, got {self.size}")

    def load(self) -> tuple[ImageSet, ImageSet | None]:
        files = ImageFiles(self.path)
        classes = sorted(set(files.folders() or []))
        held_out = np.array([_hash(name) < self.test_fraction for name in files.names])
        if held_out.all():
            raise UserError(f"{files.path}: test_fraction={self.test_fraction} leaves no image to train with")
        chosen = np.flatnonzero(~held_out)
        if self.limit is not None:
            chosen = np.sort(chosen[rng.permutation(0, "limit", 0, len(chosen))[: self.limit]])
        channels = count_channels(files.names, files.bytes)
        train = self._read(files, chosen, classes, channels, "train")
        if self.test_path is not None:
            files = ImageFiles(self.test_path)
            return train, self._read(files, np.arange(len(files.names)), classes, channels, "test")
        return train, self._read(files, np.flatnonzero(held_out), classes, channels, "test") if held_out.any() else None

    def _read(
        self, files: ImageFiles, chosen: Int64[np.ndarray, " n"], classes: list[str], channels: int, split: str
    ) -> ImageSet:
        labels, num_classes = _labels(files, classes)
        names = [files.names[i] for i in chosen.tolist()]
        pixels = decode(str(files.path), names, files.bytes, channels, self.size)
        chosen_labels = None if labels is None else labels[torch.from_numpy(chosen)]
        return ImageSet(pixels, chosen_labels, f"{files.path.name} {split}", num_classes)


def _labels(files: ImageFiles, classes: list[str]) -> tuple[Int64[Tensor, " n"] | None, int]:
    """Of all the files, and the number of classes; `classes` are the names of the training set's folders."""
    if files.has_label_file:
        return files.labels() or (None, 0)
    folders = files.folders()
    if folders is None:
        return None, 0
    if unknown := sorted(set(folders) - set(classes)):
        raise UserError(
            f"{files.path}: the training images have no class {unknown[0]!r}; they have {', '.join(classes)}"
        )
    return torch.tensor([classes.index(folder) for folder in folders]), len(classes)


def _hash(name: str) -> float:
    """Uniform in [0, 1), a function of the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48
