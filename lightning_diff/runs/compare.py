"""Runs to compare, read from their folders: what is missing or damaged is noted, and stops nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifacts import noise_levels, places
from ..artifacts.metrics_columns import PROTOCOL
from ..artifacts.metrics_rows import Row
from ..artifacts.metrics_rows import read as read_metrics
from ..artifacts.noise_levels import NoiseReport
from ..foundation.errors import UserError
from . import recipe
from .recipe import Recipe

HEADLINE = ("reference", "n", "solver", "nfe")
COMPARABLE = (*HEADLINE, *(name for name in PROTOCOL if name not in (*HEADLINE, "seed")))  # what two figures must share
HEADER = ("run", "seeds", "images", "metric", "value", "low", "high", "floor", "differs", *PROTOCOL)  # of the table
DEFAULTS = {"ema": "none"}  # version 0.1 left it out where there were no averages
LOSS = "train/unweighted_loss"

Protocol = tuple[str, ...]  # the columns COMPARABLE


@dataclass(frozen=True)
class Run:
    """A run to compare, read from its folder.

    Args:
        name: unlike those of the others.
        noise: its loss at each noise level; None if it has none.
        metrics: the rows of its metrics.csv, those with a number.
        settings: its recipe; None if it cannot be read.
        faults: sentences about what is missing.
    """

    name: str
    noise: NoiseReport | None
    metrics: list[Row]
    settings: Recipe | None = None
    faults: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Training images at the last that is known of the run."""
        logged = [int(float(row["images"])) for row in self.metrics if row["images"]]
        return max([*logged, *(self.noise.images[-1:] if self.noise else ())], default=0)

    @property
    def seed(self) -> object:
        """Of the training; None if that is not known."""
        return None if self.settings is None else self.settings.get("seed")

    def evaluations(self) -> dict[Protocol, dict[str, Row]]:
        """For each protocol, in the order of the last measurement, the newest row of each metric."""
        found: dict[Protocol, dict[str, Row]] = {}
        for row in self.metrics:
            if (protocol := protocol_of(row)) is not None:
                rows = found.pop(protocol, {})
                found[protocol] = rows | {row["metric"]: row}
        return found

    def floor(self, row: Row) -> str:
        """The figure of held-out images in that metric."""
        floors = {
            float(other["n"]): other["value"]
            for other in self.metrics
            if other["metric"] == row["metric"] + "_floor" and other["reference"] == row["reference"] and other["n"]
        }
        # At as many images as were generated or, if fewer are held out, at all of them.
        n = max((n for n in floors if n <= float(row["n"] or "nan")), default=None)
        return "" if n is None else floors[n]

    def last(self, metric: str) -> Row | None:
        return next((row for row in reversed(self.metrics) if row["metric"] == metric), None)

    def curve(self, metric: str, protocol: Protocol | None = None) -> dict[int, float]:
        """A metric over training images, in their order; of a figure, under one protocol."""
        found = {
            int(float(row["images"])): float(row["value"])
            for row in self.metrics
            if row["metric"] == metric and row["images"] and protocol_of(row) == protocol
        }
        return dict(sorted(found.items()))


def protocol_of(row: Row) -> Protocol | None:
    """The protocol of a figure; None for other numbers and for floors."""
    if not (row["reference"] and row["solver"]):
        return None
    return tuple(row[name] or DEFAULTS.get(name, "") for name in COMPARABLE)


def read(folders: Sequence[Path]) -> list[Run]:
    """The runs of these folders, each once."""
    once = list({folder.resolve(): folder for folder in folders}.values())
    names = [folder.resolve().name for folder in once]
    return [
        _read(folder, name if names.count(name) == 1 else str(folder)) for folder, name in zip(once, names, strict=True)
    ]


def _read(folder: Path, name: str) -> Run:
    noise: NoiseReport | None = None
    metrics: list[Row] = []
    settings: Recipe | None = None
    faults: list[str] = []
    try:
        noise = replace(noise_levels.read(folder), name=name)
        if not noise.images or not float(noise.columns["count"].sum()) > 0:
            noise, faults = None, [f"{folder / 'noise_levels.csv'}: nothing was measured"]
    except (UserError, OSError) as error:
        faults.append(str(error))
    try:
        metrics = [row for row in read_metrics(folder / "metrics.csv") if _is_whole(row)]
    except FileNotFoundError:
        faults.append(f"{folder / 'metrics.csv'}: no such file")
    except (UserError, OSError) as error:
        faults.append(str(error))
    try:
        settings = recipe.read_yaml(folder / recipe.SAVED, "model", "data", "trainer")
    except UserError as error:
        faults.append(str(error))
    if not (folder / recipe.SAVED).exists() and (folder / places.RECORD).exists():  # imported, and never trained here
        faults = (
            [] if metrics else [f"{folder}: a model without a run; `lightning-diff evaluate` measures it, with --data"]
        )
    return Run(name, noise, metrics, settings, tuple(faults))


def _is_whole(row: Row) -> bool:
    """Whether a row's numbers are numbers."""
    try:
        float(row["value"])
        return all(math.isfinite(float(row[name] or 0)) for name in ("images", "n"))
    except ValueError:
        return False
