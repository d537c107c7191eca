"""Tar shards as WebDataset writes them: large sets of encoded images, read where they lie, from any place."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ..foundation.errors import NotHereError, UserError
from . import order
from .image_set import Indices, Origin
from .image_source import ImageSource
from .items import Item, Items
from .listing import is_hidden
from .pixels import Reading
from .tar_shards import TarShards


@dataclass(eq=False, kw_only=True)
class WebDataset(ImageSource):
    """Tar shards on a disk: members NAME.jpg (.png, .webp, ...) beside NAME.cls, a number, or NAME.json with a label.

    Every image is addressed by its number: a small index beside each shard, built once from the tar's headers, says where it lies
    (in the cache folder where nothing can be written beside). So the stream is that of data in memory, any number of processes and
    workers draws the same, and a run resumes in the middle of an epoch. Memory stays flat: places of images, no images. Not
    covered: compressed tars, shards that are read over a network protocol, several images in one sample.

    Args:
        path: a folder with .tar files at any depth, one such file, a pattern ("shards/{000..009}.tar", "shards/*.tar"), or a
            list of these.
        test_path: likewise, for the held-out images; None for none.
        label_key: of the label in a sample's .json.
        window: shuffle in windows of so many images, shard after shard, for disks that are slow at reading from any place;
            None: an epoch is a permutation of all images. See `data.order`.
        look_at: how many images, evenly spaced, tell shape, channels, standard deviation and fingerprint; the rest is checked when
            it is read.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("path",)  # names, places and labels are compared

    path: str | Path | Sequence[str | Path]
    test_path: str | Path | Sequence[str | Path] | None = None
    label_key: str = "label"
    window: int | None = None
    look_at: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window", "look_at"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"WebDataset: {name} must be at least 1, got {value}")

    def load(self) -> tuple["TarItems", "TarItems | None"]:
        train = self._items(self.path, self.channels, self.classes)
        if self.test_path is None:
            return train, None
        return train, self._items(self.test_path, train.shape[0], train.num_classes)

    def _items(self, path: str | Path | Sequence[str | Path], channels: int | None, classes: int) -> "TarItems":
        shards = TarShards(found(path), self.label_key)
        if shards.labels is not None:
            classes = classes or int(shards.labels.max()) + 1
        return TarItems(shards, self.reading(channels), classes, self.look_at, self.window)


class TarItems(Items):
    """The examples of tar shards; arguments as for `Items` and `WebDataset`."""

    dataset: TarShards

    def __init__(self, shards: TarShards, reading: Reading, classes: int, look_at: int, window: int | None):
        self.window = window
        super().__init__(shards, reading, "image", "label", classes, look_at)
        where = f"{len(shards.shards):,} shards" if len(shards.shards) > 1 else str(shards.shards[0])
        self.origin = Origin(where, self.origin.labels, (*self.origin.notes, *shards.remarks))

    def order(self, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
        """The images of an epoch, in the order in which training sees them."""
        if self.window is None:
            return order.full(seed, epoch, len(self))
        return order.windowed(seed, epoch, self.dataset.sizes, self.window)

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        labels = self.dataset.labels
        return super().label(indices) if labels is None else torch.from_numpy(labels[np.asarray(indices)])

    def _called(self, i: int) -> str:
        return self.dataset.name_of(i)

    def fingerprint(self) -> str:
        return f"{self.dataset.fingerprint()[:32]}{super().fingerprint()[:32]}"

    def _parsed(self, item: object, i: int, down: float | None = None, right: float | None = None) -> Item:
        try:
            return super()._parsed(item, i, down, right)
        except UserError as error:
            raise UserError(f"{self.dataset.name_of(i)}: {error}") from error


def found(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The shards that a path, a pattern or a list of these names, each once, in order of their names.

    Raises:
        UserError: one that there is not, or a folder without shards.
    """
    if isinstance(path, Sequence) and not isinstance(path, str):
        return list(dict.fromkeys(shard for each in path for shard in found(each)))
    shards: list[Path] = []
    for name in expanded(str(path)):
        place = Path(name).expanduser()
        if place.is_dir():
            inside = sorted(place.rglob("*.[tT][aA][rR]"))
            shards += [each for each in inside if not any(map(is_hidden, each.relative_to(place).parts))]
        elif place.exists():
            shards.append(place)
        elif glob.has_magic(name):
            shards += sorted(map(Path, glob.glob(str(place))))
        else:
            raise NotHereError(f"{name}: no such tar file or folder of them (looked for it in {Path.cwd()})")
    if not shards:
        raise NotHereError(f"{path}: there are no .tar files (looked for them in {Path.cwd()})")
    return shards


def expanded(pattern: str) -> list[str]:
    """Names of a pattern with braces, as shells and WebDataset have them: {000..012} counts, {a,b} lists."""
    parts = re.split(r"(\{[^{}]*\})", pattern)
    choices: list[list[str]] = []
    for part in parts:
        if (span := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)) is not None:
            first, last = span.groups()
            choices.append([str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)])
        elif part.startswith("{") and "," in part:
            choices.append(part[1:-1].split(","))
        else:
            choices.append([part])
    return ["".join(each) for each in product(*choices)]
