"""Latents as EDM2's dataset tool writes them: a zip or folder of .npy files with raw means and standard deviations."""

import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from ...autoencoders import EDM2_NORMALISATION, Autoencoder, Normalisation
from ...condition import AnyCondition
from ...foundation import rng
from ...foundation.errors import UserError
from ..decode import shown
from ..image_files import UNREADABLE, ImageFiles
from ..image_labels import Labelled, labelled
from ..image_set import Examples, Indices, Origin
from ..images import share_of
from ..source import Data
from .examples import At, LatentExamples, Moments
from .moments import ChannelMoments
from .source import MEASURED, remark

EXPECTED = 0.5  # standard deviation of what EDM2's models are given


@dataclass(eq=False, kw_only=True)
class EDM2Latents(Data):
    """What `dataset_tool.py encode` of EDM2 makes of ImageNet at 512x512: float32 (8, 64, 64), 4 means and 4 standard deviations.

    Files are read as they are needed: set `workers`. Labels come from its dataset.json. In training, example number p is
    mean + std * noise, with noise a function of (seed, p), then normalised by channel to standard deviation 0.5.

    Args:
        path: the zip or folder.
        autoencoder: `autoencoders.EDM2`, for pictures and figures of samples; None for neither. Another one's normalisation counts.
        images: the images themselves, which figures are measured against.
        test_fraction: share in [0, 1) to hold out, chosen by a hash of each name.
        sample: False takes the mean in training, too.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("path", "images.*")

    path: str | Path
    autoencoder: Autoencoder | None = None  # type: ignore[misc]
    images: Data | None = None
    test_fraction: float = 0.0
    sample: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flip or self.augment:
            raise ValueError("EDM2Latents: flip and augment are for images, and these are latents; leave them out")
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"EDM2Latents: test_fraction must be in [0, 1), got {self.test_fraction}")

    @property
    def pictured(self) -> Data:
        if self.autoencoder is not None and self.images is None:
            raise UserError(f"{self.name}: figures of decoded samples need the images; set data.images, or --data")
        return self if self.images is None else self.images

    def load(self) -> tuple[Examples, Examples | None]:
        files = ImageFiles(self.path)
        labels = labelled(files, "auto")
        held_out = np.array([share_of(name) < self.test_fraction for name in files.names])
        if held_out.all():
            raise UserError(f"{files.where}: test_fraction={self.test_fraction} leaves nothing to train with")
        train = RawLatents(files, np.flatnonzero(~held_out), labels)
        normalisation = EDM2_NORMALISATION if self.autoencoder is None else self.autoencoder.normalisation
        normalisation.refuse_unfit(train.shape[0], files.where)
        std = _measured_std(train, normalisation)
        if self.autoencoder is not None:
            self.autoencoder.image_shape(train.shape)
        notes = remark(std, EXPECTED, files.where, rescalable=False)
        sets = [train, *([RawLatents(files, np.flatnonzero(held_out), labels)] if held_out.any() else [])]
        made = [
            ReadLatents(each, normalisation, train.shape, std, "", sample=self.sample, notes=notes) for each in sets
        ]
        return made[0], made[1] if len(made) > 1 else None


class RawLatents:
    """Files of means and standard deviations; `images` gives both, one above the other, as they are stored.

    Args:
        files: of the zip or folder.
        chosen: which of them.
        labels: of all.
    """

    def __init__(self, files: ImageFiles, chosen: Int64[np.ndarray, " n"], labels: Labelled):
        self.files, self.names = files, [files.names[i] for i in chosen.tolist()]
        self.labels = None if labels.classes is None else torch.tensor(labels.classes)[torch.from_numpy(chosen)]
        self.name, self.labelled, self.num_classes = shown(files.path.name), self.labels is not None, labels.count
        self.class_names = labels.class_names
        self.origin = Origin(files.where, labels.source, (*labels.notes, *files.listing.notes()))
        self._pid = os.getpid()
        rows = self._read(self.names[0])
        if rows.ndim != 3 or len(rows) % 2:
            raise UserError(
                f"{files.where}: {self.names[0]} has shape {list(rows.shape)}; expected means and standard deviations (2 c, h, w)"
            )
        self._stored = rows.shape
        self.shape: tuple[int, ...] = (len(rows) // 2, *rows.shape[1:])

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n c2 h w"], AnyCondition | None]:
        return self.images(indices), self.label(indices) if self.labelled else None

    def images(self, indices: Indices) -> Float32[Tensor, "n c2 h w"]:
        self._reopen()
        rows = [self._read(self.names[int(i)]) for i in indices]
        for i, row in zip(indices, rows, strict=True):
            if row.shape != self._stored:
                raise UserError(
                    f"{self.files.where}: {self.names[int(i)]} has shape {list(row.shape)}, the first has {list(self._stored)}"
                )
        return torch.from_numpy(np.stack(rows))

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        if self.labels is None:
            raise UserError(f"{self.name}: these latents have no labels")
        return self.labels[torch.as_tensor(indices)]

    def std(self) -> float:
        raise NotImplementedError("of what is not normalised")

    @cached_property
    def _content(self) -> str:
        """Names, sizes and in a zip checksums: the files themselves would take minutes to read."""
        digest = hashlib.sha256(repr((self.labelled, self._stored)).encode())
        for i, name in enumerate(self.names):
            if self.files.zip is None:
                told: object = (self.files.path / name).stat().st_size
            else:
                info = self.files.zip.getinfo(self.files.listing.stored.get(name, name))
                told = (info.file_size, info.CRC)
            digest.update(repr((name, told, None if self.labels is None else int(self.labels[i]))).encode())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        return self._content

    def _reopen(self) -> None:
        """A process that was forked shares the place in an open file with all others."""
        if self.files.zip is not None and self._pid != os.getpid():
            self.files.zip, self._pid = zipfile.ZipFile(self.files.path), os.getpid()

    def _read(self, name: str) -> Float32[np.ndarray, "..."]:
        try:
            row = np.load(io.BytesIO(self.files.bytes(name)), allow_pickle=False)
        except UNREADABLE as error:
            raise UserError(f"{self.files.where}: {shown(name)} cannot be read as an array: {error}") from None
        if row.dtype.kind != "f":
            raise UserError(f"{self.files.where}: {shown(name)} holds {row.dtype}; expected latents in float32")
        return np.ascontiguousarray(row, np.float32)


class ReadLatents(LatentExamples):
    """Moments as the files have them."""

    def moments(
        self, indices: Indices, mirror: Bool[Tensor, " n"], at: At | None
    ) -> tuple[Moments, AnyCondition | None]:
        rows, given = self.source.take(indices)
        mean, std = rows.chunk(2, dim=1)
        if not bool(rows.isfinite().all()):
            raise UserError(f"{self.source.name}: latents hold NaN or infinite values")
        return (mean, std), given


def _measured_std(train: RawLatents, normalisation: Normalisation) -> float:
    """Of some, always the same."""
    moments = ChannelMoments(train.shape[0])
    chosen = np.sort(rng.permutation(0, "latents", 0, len(train))[:MEASURED])
    mean, std = train.images(chosen).chunk(2, dim=1)
    moments.update(mean, std)
    return normalisation.std(moments.mean, moments.variance)
