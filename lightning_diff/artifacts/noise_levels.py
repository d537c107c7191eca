"""The loss at each noise level, as tables: what the callback `NoiseLevels` writes and `compare` reads.

    noise_levels.csv           one row per bin of log-SNR, over the last quarter of the training; after the columns below, means
                               of what else the training step measured: a consistency model's tangent_norm, dF_dt, warmup
    noise_levels_history.csv   count, mean and variance per window of the training and bin: the heatmap
    noise_levels.json          the images that the table covers, and the suggested noise law
    noise_levels.png           all of it, see `noise_levels_figure`

A cell of a bin in which too little was seen to know is empty, and the curve has a gap there. Arrays are numpy's, so that runs are
compared without torch; `noise_levels_measured` makes a report of what was measured.
"""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from ..foundation.atomic import replacing
from ..foundation.errors import UserError

ENOUGH = 1000  # losses; with so many the suggested mean has an error of some 0.05
COLUMNS = (
    "log_snr",  # at the middle of the bin
    "sigma",
    "count",
    "mean",  # of the unweighted loss
    "standard_error",  # of that mean
    "variance",  # of the unweighted loss
    "coefficient_of_variation",
    "density",  # p: how often the level was drawn, per unit of log-SNR
    "weight",  # w: mean weight that the loss was multiplied by
    "effective_weight",  # p w, scaled to integrate to one
    "gradient_norm",  # root mean square over samples of |w grad loss|; measured in coarse bins, interpolated between them
    "gradient_share",  # of the bin in the mean of |w grad loss|^2; sums to one
)
HISTORY = ("images", "log_snr", "count", "mean", "variance")
RULE = "mean and standard deviation of ln sigma under p(sigma) w(sigma) sqrt(E[loss^2 | sigma])"


class Suggestion(NamedTuple):
    """Parameters of a `LogNormal`."""

    P_mean: float
    P_std: float


@dataclass(frozen=True)
class NoiseReport:
    """One run's measurement.

    Args:
        name: of the run.
        columns: by the names in `COLUMNS`, (bins,) each, NaN where unknown.
        images: at the end of each window.
        history: count, mean and variance per window and bin, NaN where unknown.
        since: images seen when the table's measurement began.
        details: means of what else was measured, by name, like `columns`.
    """

    name: str
    columns: dict[str, Float64[np.ndarray, " bins"]]
    images: list[int]
    history: Float64[np.ndarray, "windows 3 bins"]
    since: int = 0
    details: dict[str, Float64[np.ndarray, " bins"]] = field(default_factory=dict)

    @property
    def levels(self) -> Float64[np.ndarray, " bins"]:
        return self.columns["log_snr"]

    @property
    def width(self) -> float:
        """Width of a bin, in log-SNR."""
        return float(self.levels[-1] - self.levels[0]) / (len(self.levels) - 1)

    @property
    def sigma_data(self) -> float:
        return float(self.columns["sigma"][0] * np.exp(self.levels[0] / 2))

    @property
    def span(self) -> tuple[float, float]:
        """The log-SNR that was seen, but for the emptiest thousandth on either side."""
        counts = self.columns["count"]
        below = counts.cumsum() / counts.sum()
        seen = self.levels[(below >= 1e-3) & (below - counts / counts.sum() <= 1 - 1e-3)]
        return float(seen[0]) - self.width / 2, float(seen[-1]) + self.width / 2

    def variance_spread(self) -> float:
        """Largest over smallest variance of the unweighted loss, among bins that hold a hundredth of the samples each."""
        counts = self.columns["count"]
        variance = self.columns["variance"][counts >= 0.01 * counts.sum()]
        return float(variance.max() / variance.min())

    def suggestion(self) -> Suggestion | None:
        """A LogNormal to draw noise levels from; None without weights or losses, or with fewer than `ENOUGH` of them.

        The gradient of the objective, which is p(sigma) w(sigma), is estimated with least variance when levels are drawn in
        proportion to p w sqrt(E|grad|^2) and reweighted to keep the objective (importance sampling). As in improved DDPM
        (arXiv 2102.09672, section 3.3) the loss stands for the gradient's norm. This returns the LogNormal with the mean
        and standard deviation of ln sigma under that density (less h^2/12 for bins of width h, Sheppard's correction).

        It says where this objective is noisy. It does not say which objective gives the best samples; used without
        reweighting, it moves the effort too; it knows nothing of levels that were never drawn.
        """
        second = np.sqrt(self.columns["mean"] ** 2 + self.columns["variance"])
        q = np.nan_to_num(self.columns["effective_weight"] * second)
        if not float(q.sum()) > 0 or float(np.nansum(self.columns["count"])) < ENOUGH:
            return None
        q = q / q.sum()
        log_sigma = np.log(self.columns["sigma"])
        mean = float((q * log_sigma).sum())
        spread = float((q * (log_sigma - mean) ** 2).sum()) - (self.width / 2) ** 2 / 12
        return Suggestion(mean, math.sqrt(max(spread, 1e-4)))

    def sentence(self) -> str:
        """The suggestion in one line."""
        suggestion = self.suggestion()
        if suggestion is None:
            return f"{self.name}: too little was measured to suggest noise levels"
        return (
            f"{self.name}: suggested noise levels P_mean {suggestion.P_mean:.2f}, P_std {suggestion.P_std:.2f}: "
            "where p · w · √E[loss²] lies, for the least noisy gradient of this objective"
        )

    def write_tables(self, folder: Path) -> None:
        """The three tables, each whole or not at all."""
        with (
            replacing(folder / "noise_levels.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            table = {name: self.columns[name] for name in COLUMNS} | self.details
            writer.writerow(table)
            writer.writerows(_cells(np.stack(list(table.values()), 1)))
        with (
            replacing(folder / "noise_levels_history.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(HISTORY)
            for images, window in zip(self.images, self.history, strict=True):
                for cells, level in zip(_cells(window.T), self.levels.tolist(), strict=True):
                    if cells[0] != "0":
                        writer.writerow([images, f"{level:.6g}", *cells])
        suggestion = self.suggestion()
        suggested = None
        if suggestion is not None:
            suggested = {name: round(value, 4) for name, value in suggestion._asdict().items()} | {"rule": RULE}
        record = {"images": [self.since, self.images[-1]], "suggestion": suggested}
        with replacing(folder / "noise_levels.json") as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")


def read(folder: Path) -> NoiseReport:
    """The report in a run folder. UserError names the file that is missing or is no such table."""
    table = _read_csv(folder / "noise_levels.csv", COLUMNS)
    if len(table) < 2:
        raise UserError(f"{folder / 'noise_levels.csv'}: holds no noise levels")
    columns = {name: np.array([row[name] for row in table], np.float64) for name in table[0]}
    details = {name: columns.pop(name) for name in list(columns) if name not in COLUMNS}
    levels = columns["log_snr"]
    rows = _read_csv(folder / "noise_levels_history.csv", HISTORY)
    images = sorted({int(row["images"]) for row in rows})
    history = np.full((len(images), 3, len(levels)), np.nan)
    history[:, 0] = 0
    window = {number: index for index, number in enumerate(images)}
    step = float(levels[1] - levels[0])
    for row in rows:
        bin = round((row["log_snr"] - float(levels[0])) / step)
        if not 0 <= bin < len(levels):
            raise UserError(f"{folder / 'noise_levels_history.csv'}: has other bins than noise_levels.csv")
        history[window[int(row["images"])], :, bin] = row["count"], row["mean"], row["variance"]
    return NoiseReport(folder.name, columns, images, history, details=details)


def _read_csv(path: Path, header: tuple[str, ...]) -> list[dict[str, float]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; the run needs the callback NoiseLevels")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = tuple(reader.fieldnames or ())
            if names[: len(header)] != header:
                raise UserError(f"{path}: not a table of this version; its columns should be {', '.join(header)}")
            return [{name: float(row[name]) if row[name] else math.nan for name in names} for row in reader]
    except (ValueError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: damaged: {error}") from error


def _cells(rows: Float64[np.ndarray, "rows columns"]) -> list[list[str]]:
    return [["" if value != value else f"{value:.6g}" for value in row] for row in rows.tolist()]
