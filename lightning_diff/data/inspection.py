"""What a folder or a zip of images holds, the broken ones included: nothing is kept of an image but what is counted."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from ..foundation.errors import UserError
from ..foundation.progress import stage
from .decode import One, count_channels, decoded_in_order, shown
from .image_files import ImageFiles
from .image_labels import Labelled, labelled
from .pixels import Pixels, Reading
from .resize import Filter, Framing, How

SAMPLES, ROW, MOST_ROWS, LARGEST = (
    64,
    8,
    16,
    128,
)  # images of the picture, in a row of a class; classes; pixels of a side


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Args:
        path: of the folder or zip.
        count: of images that can be read.
        sizes: (width, height) and how many images have it, the most frequent first.
        channels: 1 if all are grey, else 3.
        labels: where labels come from; "" for none.
        classes: name (its number, if it has none) and how many images it has, in order of label.
        broken: name and fault of each image that cannot be read.
        notes: what else there is to say.
        std: standard deviation over all values in [-1, 1].
        samples: some images, all of one size, of `MOST_ROWS` classes at most; those of a class follow each other.
        rows: what the rows of samples are called; () where they are not sorted by class.
    """

    path: str
    count: int
    sizes: tuple[tuple[tuple[int, int], int], ...]
    channels: int
    labels: str
    classes: tuple[tuple[str, int], ...]
    broken: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    std: float
    samples: Float32[Tensor, "n c h w"] | None = field(repr=False)
    rows: tuple[str, ...] = ()

    @property
    def sigma_data(self) -> float:
        """As a run takes it from such data."""
        return float(f"{self.std:.4g}")

    def record(self) -> dict[str, Any]:
        """For JSON: all but the samples."""
        fields = {key: value for key, value in asdict(self).items() if key not in ("samples", "rows")}
        sizes = [{"width": width, "height": height, "images": n} for (width, height), n in self.sizes]
        classes = [{"name": name, "images": n} for name, n in self.classes]
        broken = [{"file": name, "fault": fault} for name, fault in self.broken]
        return fields | {"sizes": sizes, "classes": classes, "broken": broken, "sigma_data": self.sigma_data}


def inspect(path: Path | str, framing: Framing | None = None) -> Inspection:
    """Read every image of a folder or a zip.

    Args:
        path: the folder or zip.
        framing: how images come to one size; None: they are looked at as they are.

    Raises:
        UserError: no images at all, or labels that cannot be read.
    """
    files = ImageFiles(path)
    labels = labelled(files, "auto")
    channels = count_channels(files.names, files.bytes)
    values, sizes, broken, whole = _Values(), Counter[tuple[int, int]](), list[tuple[str, str]](), list[int]()
    with stage("reading", len(files.names), "image", shown=len(files.names) > 1000) as bar:
        for i, one in enumerate(decoded_in_order(files.names, files.bytes, Reading(channels, framing))):
            bar.advance()
            if isinstance(one.pixels, str):
                broken.append((shown(files.names[i]), one.pixels))
                continue
            whole.append(i)
            values.add(one.pixels)
            sizes[one.pixels.shape[2], one.pixels.shape[1]] += 1
    classes = Counter(labels.classes[i] for i in whole) if labels.classes is not None else Counter[int]()
    chosen, rows = _chosen(whole, labels)
    return Inspection(
        files.where,
        len(whole),
        tuple(sizes.most_common()),
        channels,
        labels.source if labels.classes is not None else "",
        tuple((_name(labels, label), classes[label]) for label in range(labels.count)),
        tuple(broken),
        (*labels.notes, *files.listing.notes()),
        values.std(),
        _samples(files, [files.names[i] for i in chosen], channels, sizes) if chosen else None,
        rows,
    )


class _Values:
    """Of all images so far: how often each byte, and sums of what has more than 8 bits."""

    def __init__(self) -> None:
        self.counts = np.zeros(256, np.int64)
        self.n, self.total, self.squares = 0, 0.0, 0.0

    def add(self, x: Pixels) -> None:
        if x.dtype == np.uint8:
            self.counts += np.bincount(x.reshape(-1), minlength=256)
        else:
            self.n += x.size
            self.total += float(x.sum(dtype=np.float64))
            self.squares += float(np.square(x, dtype=np.float64).sum())

    def std(self) -> float:
        values = np.arange(256) / 127.5 - 1
        n = self.n + self.counts.sum()
        if not n:
            return 0.0
        mean = (self.counts @ values + self.total) / n
        return float(np.sqrt(max((self.counts @ values**2 + self.squares) / n - mean**2, 0.0)))


def _name(labels: Labelled, label: int) -> str:
    return labels.class_names[label] if label < len(labels.class_names) else str(label)


def _chosen(whole: list[int], labels: Labelled) -> tuple[list[int], tuple[str, ...]]:
    """Images for the picture, evenly spaced: of each class, where there are few, with what the rows are called."""
    if labels.classes is None or not 2 <= labels.count <= MOST_ROWS:
        return _spaced(whole, SAMPLES), ()
    by_class: dict[int, list[int]] = {}
    for i in whole:
        by_class.setdefault(labels.classes[i], []).append(i)
    row = min([ROW, *map(len, by_class.values())])
    chosen = [i for label in sorted(by_class) for i in _spaced(by_class[label], row)]
    return chosen, tuple(_name(labels, label) for label in sorted(by_class))


def _spaced(choice: list[int], n: int) -> list[int]:
    return [choice[k * len(choice) // n] for k in range(n)] if len(choice) > n else choice


def _samples(
    files: ImageFiles, names: list[str], channels: int, sizes: Counter[tuple[int, int]]
) -> Float32[Tensor, "n c h w"]:
    """These images as they are, or on black where they differ in size or are large."""
    width, height = (min(max(size[axis] for size in sizes), LARGEST) for axis in (0, 1))
    reading = Reading(channels, Framing(height, width, "pad"))
    images = [_values(one) for one in decoded_in_order(names, files.bytes, reading)]
    return torch.from_numpy(np.stack(images))


def _values(one: One) -> Float32[np.ndarray, "c h w"]:
    if isinstance(one.pixels, str):  # it was whole a moment ago
        raise UserError(f"an image has changed while it was read: {one.pixels}")
    return one.pixels.astype(np.float32) / 127.5 - 1 if one.pixels.dtype == np.uint8 else one.pixels


def framing_of(size: int | None, resize: str, filter: str) -> Framing | None:
    """What options of a command say.

    Raises:
        UserError: they do not go together, or name nothing.
    """
    ways: dict[str, How] = {"centre_crop": "centre_crop", "pad": "pad", "stretch": "stretch"}
    filters: dict[str, Filter] = {"area": "area", "lanczos": "lanczos", "adm": "adm"}
    if resize not in ways:
        raise UserError(f"--resize: there is no {resize!r}; choose from {', '.join(ways)}")
    if filter not in filters:
        raise UserError(f"--filter: there is no {filter!r}; choose from {', '.join(filters)}")
    if size is not None and size < 1:
        raise UserError(f"--size: must be at least 1, got {size}")
    return None if size is None else Framing(size, size, ways[resize], filters[filter])
