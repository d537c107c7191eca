"""Figures of images that lie on a disk, made by anything: the same table, columns and floors as those of a model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..artifacts.metrics_table import MetricsTable
from ..data.given_images import GivenImages, read_images
from ..data.image_set import ImageSet
from ..foundation import rng
from ..foundation.errors import UserError
from ..foundation.processes import rank_and_world
from ..metrics import Protocol
from ..metrics import evaluate as measure
from ..metrics.evaluate import Row
from ..metrics.evaluate_denoiser import table
from ..metrics.protocol import labels_hash
from .against import Against, data_of
from .output import refuse_unwritable
from .trained import usable


@dataclass(frozen=True)
class ImagesEvaluation:
    """Figures of images, the table that they were added to, and what is to be said of the images and of missing figures."""

    rows: list[Row]
    target: Path
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        protocol = self.rows[0].protocol
        lines = [table(self.rows), f"n {protocol.n}, reference {protocol.reference}; added to {self.target}"]
        return "\n".join([*lines, *self.remarks])


def evaluate_images(
    path: Path,
    against: Against,
    n: int | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    out: Path | None = None,
    per_class: bool = False,
) -> ImagesEvaluation:
    """Measure images; every figure goes to a table with its protocol, whose columns of a sampler are blank.

    Under a process group every process calls this; the first writes.

    Args:
        path: a folder, a zip or an .npz.
        against: the reference.
        n: how many of them, by a choice that depends on the seed alone; None for all.
        seed: of that choice.
        device: a name of torch's, or auto.
        out: the table, a .csv; None for metrics.csv in the folder, or beside a file under its name.
        per_class: figures for each class, too (see `metrics.evaluate`).

    Raises:
        UserError: before anything is measured, for whatever does not go together.
    """
    against.check()
    if against.data is None and against.moments is None:
        raise UserError(
            "--images: give what to measure against: --data (a recipe, run or images) or --reference (a file)"
        )
    if against.data is None and against.write is not None:
        raise UserError("--write-reference: give the images whose moments are to be written, by --data")
    target = _table_of(path, out)
    data = None if against.data is None else data_of(against.data)
    images = read_images(path, data)
    index = _chosen(images, n, seed)
    refuse_unwritable(target, "" if out is not None else "; give another place by --out FILE.csv")
    chosen = against.open(GivenImages(images) if data is None else data, len(index), measured=f"images of {path}")
    reference = chosen.reference(usable(device))
    rank, world = rank_and_world()
    mine = index[rank::world]
    labels = images.label(index) if images.labelled else None
    protocol = Protocol(seed=None if len(index) == len(images) else seed, labels=labels_hash(labels))
    own = None if labels is None else labels[rank::world]
    rows = measure(images.images(mine), reference, own, protocol, per_class=per_class)
    MetricsTable(target).log_rows([row.record() for row in rows])
    return ImagesEvaluation(rows, target, (*images.origin.notes, *([chosen.remark] if chosen.remark else [])))


def write_reference(against: Against, device: str = "auto") -> None:
    """Write the moments of images without measuring any. UserError for whatever does not go together."""
    against.check()
    if against.data is None:
        raise UserError("--write-reference: give the images whose moments are to be written, by --data, or a RUN")
    against.open(data_of(against.data), None, measures=False).reference(usable(device))


def _table_of(path: Path, out: Path | None) -> Path:
    if out is None:
        return path / "metrics.csv" if path.is_dir() else path.with_suffix(".metrics.csv")
    if out.suffix != ".csv":
        raise UserError(f"--out: {out} does not end in .csv")
    return out


def _chosen(images: ImageSet, n: int | None, seed: int) -> np.ndarray:
    """Numbers of n images, increasing."""
    if n is None:
        return np.arange(len(images))
    if n > len(images):
        raise UserError(f"--n: {n:,} images wanted, and {images.name} has {len(images):,}")
    return np.sort(rng.permutation(seed, "given images", 0, len(images))[:n])
