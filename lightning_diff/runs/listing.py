"""What `lightning-diff runs` tells of each run, read from its small files without torch: recipe, tables, records, lock."""

import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..artifacts import places
from ..artifacts.checkpoints import store
from ..artifacts.metrics_rows import Row, read
from ..foundation.errors import UserError
from . import lock, recipe
from .finished import FINISHED, is_finished

HEADER = ("name", "step", "images", "loss", "best figure", "size", "age", "state")
LEFT = ("name", "best figure", "state")  # what is aligned to the left
LOSSES = ("train/loss", "train/unweighted_loss")
DISTANCES = ("frechet_", "fd_", "kernel_")  # of a figure's name, the one to tell first; smaller is better
REWARD = "reward/mean"  # larger is better
MARKS = (recipe.SAVED, "checkpoints", FINISHED)


class Figure(NamedTuple):
    """A measured figure: the name of its metric and its value."""

    name: str
    value: float


@dataclass(frozen=True)
class Listed:
    """A run as the list has it.

    Args:
        name: of its folder.
        state: training, finished, stopped or damaged; "model" of one that was imported or exported, which nobody trained here.
        step, images: of its newest checkpoint; 0 before the first.
        max_steps: of its recipe; None if that cannot be read.
        loss: the last one logged.
        best: its best figure of quality so far.
        size: bytes on the disk.
        changed: time of its last change, seconds since the epoch.
    """

    name: str
    state: str
    step: int
    images: int
    max_steps: int | None
    loss: float | None
    best: Figure | None
    size: int
    changed: float

    def cells(self) -> tuple[str, ...]:
        """By `HEADER`."""
        of = f" / {self.max_steps:,}" if self.max_steps is not None else ""
        loss = "" if self.loss is None else f"{self.loss:.4g}"
        best = "" if self.best is None else f"{self.best.name} {self.best.value:.4g}"
        step = f"{self.step:,}{of}"
        return (
            self.name,
            step,
            f"{self.images:,}",
            loss,
            best,
            size(self.size),
            age(time.time() - self.changed),
            self.state,
        )


def look(folder: Path) -> list[Listed]:
    """The runs in a folder, or the one that it is, by name.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; runs are in runs/, or where runs_dir of their recipe says")
    if is_run(folder):
        return [one(folder)]
    found = sorted(path for path in folder.iterdir() if path.is_dir() and is_run(path))
    with ThreadPoolExecutor(16) as pool:  # a holder on another machine is watched for seconds
        return list(pool.map(one, found))


def is_run(folder: Path) -> bool:
    """Whether a run has been in this folder, or a model is."""
    return any((folder / name).exists() for name in (*MARKS, places.RECORD))


def one(folder: Path) -> Listed:
    """A run, whatever state its files are in."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    step, images, is_whole = _newest(folder / "checkpoints")
    rows = _rows(folder / "metrics.csv")
    max_steps = _max_steps(folder)
    is_damaged = not is_whole or max_steps is None or rows is None
    state = "damaged" if is_damaged else "finished" if is_finished(folder, step) else "stopped"
    if not any((folder / name).exists() for name in MARKS):
        state = "damaged" if rows is None else "model"
    if lock.holder(folder) is not None:
        state = "training"
    return Listed(
        name=folder.resolve().name,
        state=state,
        step=step,
        images=images,
        max_steps=max_steps,
        loss=next((value for row in reversed(rows or []) if row["metric"] in LOSSES and (value := _number(row))), None),
        best=best(rows or []),
        size=sum(_stat(path).st_size for path in files),
        changed=max([_stat(folder).st_mtime, *(_stat(path).st_mtime for path in files)]),
    )


def best(rows: list[Row]) -> Figure | None:
    """The least distance measured against the data, or the highest mean reward; of figures of generated images only."""
    measured = [row for row in rows if row["reference"] and not row["metric"].endswith("_floor")]
    for start in DISTANCES:
        figures = [_figure(row) for row in measured if row["metric"].startswith(start)]
        if known := [figure for figure in figures if math.isfinite(figure.value)]:
            last = [
                figure for figure in known if figure.name == known[-1].name
            ]  # another feature space does not compare
            return min(last, key=lambda figure: figure.value)
    rewards = [_figure(row) for row in rows if row["metric"] == REWARD]
    return max(rewards, key=lambda figure: figure.value, default=None)


def as_text(runs: list[Listed]) -> str:
    """A table, one line for each run."""
    if not runs:
        return "no runs there; `lightning-diff train digits_edm` makes one"
    table = [HEADER, *(run.cells() for run in runs)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for cell, width, name in zip(row, widths, HEADER, strict=True)
        ).rstrip()
        for row in table
    )


def size(number: int | float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def age(seconds: int | float) -> str:
    """A duration in its largest unit."""
    for limit, length, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        if seconds < limit:
            return f"{max(int(seconds // length), 0)} {unit}"
    return f"{int(seconds // 86_400)} d"


def _newest(folder: Path) -> tuple[int, int, bool]:
    """Step and images of the newest whole checkpoint, and whether the newest of all is whole, by its size."""
    paths = sorted(folder.glob(store.PATTERN), reverse=True)
    is_whole = not paths or store.fault(paths[0], by_size=True) is None
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError):
            if store.fault(path, by_size=True) is None:
                record = json.loads(path.with_suffix(".json").read_text())
                return int(record["step"]), int(record["images"]), is_whole
    return 0, 0, is_whole


def _rows(path: Path) -> list[Row] | None:
    """None for a file that is no table."""
    try:
        return read(path) if path.exists() else []
    except (UserError, OSError):
        return None


def _max_steps(folder: Path) -> int | None:
    try:
        steps = recipe.read_yaml(folder / recipe.SAVED, "model", "data", "trainer")["trainer"]["max_steps"]
    except (UserError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def _figure(row: Row) -> Figure:
    return Figure(row["metric"], value if (value := _number(row)) is not None else math.nan)


def _number(row: Row) -> float | None:
    try:
        return float(row["value"])
    except ValueError:
        return None


def _stat(path: Path) -> os.stat_result:
    """Of a file that may have just gone: nothing then."""
    try:
        return path.stat()
    except OSError:
        return os.stat_result((0,) * 10)
