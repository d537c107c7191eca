"""A folder or a zip of images, in EDM's layout or any other, decoded once."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int64

from ..foundation import rng
from ..foundation.errors import UserError
from .decode import count_channels, decode, shown
from .decoded.entry import Decoded, Sets
from .decoded.stored_images import StoredImages
from .decoded.stores import MakeStore
from .image_files import ImageFiles
from .image_labels import Labelled, Where, labelled
from .image_set import Origin


@dataclass(eq=False, kw_only=True)
class Images(StoredImages):
    """Image files of one size: PNG, JPEG, WebP, BMP, GIF, TIFF, PNM or arrays (.npy); docs/data.md says how each is read.

    Labels come from `dataset.json`, {"labels": [[name, class], ...]}, as EDM's dataset tool writes it, at the top or in a
    folder that all images share; without one, the folders at the top are the classes, in alphabetical order, if there are
    two or more and every image lies in one; else there are none. Numbered folders that hold so many images each (00000/,
    01000/) are no classes. Images are grey if all are, else RGB; what is transparent lies on white.

    Args:
        path: the folder or zip.
        test_path: folder or zip of held-out images, in the same form.
        test_fraction: without test_path, the share in [0, 1) to hold out, chosen by a hash of each name, so that adding
            images moves none.
        limit: train with at most this many images, a random choice that is always the same; None for all.
        labels: "folders" takes folders as classes whatever their names; "file" wants a dataset.json.
        relabel: number the labels of a dataset.json 0, 1, ... in increasing order: for ids, and labels that count from 1.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("path", "labels", "relabel")  # images and labels are compared

    test_path: str | Path | None = None
    test_fraction: float = 0.0
    limit: int | None = None
    labels: Where = "auto"
    relabel: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"Images: test_fraction must be in [0, 1), got {self.test_fraction}")
        if self.test_path is not None and self.test_fraction:
            raise ValueError("Images: give test_path or test_fraction, not both")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"Images: limit must be at least 1, got {self.limit}")

    def files(self) -> list[Path]:
        return [Path(path).expanduser() for path in (self.path, self.test_path) if path is not None]

    def decoded(self, store: Callable[[str], MakeStore]) -> Sets:
        files = ImageFiles(self.path)
        labels = self._labelled(files)
        held_out = np.array([share_of(name) < self.test_fraction for name in files.names])
        if held_out.all():
            raise UserError(f"{files.where}: test_fraction={self.test_fraction} leaves no image to train with")
        chosen = np.flatnonzero(~held_out)
        if self.limit is not None:
            chosen = np.sort(chosen[rng.permutation(0, "limit", 0, len(chosen))[: self.limit]])
        channels = self.channels or count_channels(files.names, files.bytes)
        train = self._read(files, chosen, labels, channels, "train", store)
        if self.test_path is not None:
            files = ImageFiles(self.test_path)
            every = np.arange(len(files.names))
            return train, self._read(files, every, self._labelled(files, labels), channels, "test", store)
        rest = np.flatnonzero(held_out)
        return train, self._read(files, rest, labels, channels, "test", store) if len(rest) else None

    def _read(
        self,
        files: ImageFiles,
        chosen: Int64[np.ndarray, " n"],
        labels: Labelled,
        channels: int,
        split: str,
        store: Callable[[str], MakeStore],
    ) -> Decoded:
        names = [files.names[i] for i in chosen.tolist()]
        decoded = decode(files.where, names, files.bytes, self.reading(channels), store(split))
        classes = None if labels.classes is None else torch.tensor([labels.classes[i] for i in chosen.tolist()])
        origin = Origin(files.where, labels.source, (*labels.notes, *decoded.notes, *files.listing.notes()))
        name = f"{shown(files.path.name)} {split}"
        return self.examples(decoded, classes, name, labels.count, origin, labels.class_names, names)

    def _labelled(self, files: ImageFiles, training: Labelled | None = None) -> Labelled:
        return labelled(files, self.labels, self.classes, relabel=self.relabel, training=training)


def share_of(name: str) -> float:
    """Uniform in [0, 1), a function of the name."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48
