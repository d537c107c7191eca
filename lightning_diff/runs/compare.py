"""Several runs in one picture and one table: `lightning-diff compare`."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from ..artifacts import noise_levels, noise_levels_figure
from ..artifacts.metrics_columns import PROTOCOL
from ..artifacts.metrics_rows import read as read_metrics
from ..artifacts.noise_levels import NoiseReport
from ..foundation.atomic import replacing
from ..foundation.errors import UserError

HEADLINE = ("reference", "n", "solver", "nfe")
COMPARABLE = (*HEADLINE, *(name for name in PROTOCOL if name not in (*HEADLINE, "seed")))  # what two figures must share
HEADER = ("run", "images", "metric", "value", "floor", *PROTOCOL)
NOTHING = "nothing recorded"
DEFAULTS = {"ema": "none"}  # version 0.1 left it out where there were no averages
HEATMAPS_IN_A_ROW = 4

Row = dict[str, str]  # of metrics.csv
Protocol = tuple[str, ...]  # the columns COMPARABLE


@dataclass(frozen=True)
class Run:
    """A run to compare, read from its folder.

    Args:
        name: unlike those of the others.
        noise: its loss at each noise level.
        metrics: the rows of its metrics.csv.
    """

    name: str
    noise: NoiseReport
    metrics: list[Row]

    def evaluations(self) -> dict[Protocol, dict[str, Row]]:
        """For each protocol, in the order of the last measurement, the newest row of each metric."""
        found: dict[Protocol, dict[str, Row]] = {}
        for row in self.metrics:
            if row["reference"] and row["solver"]:
                protocol = tuple(row[name] or DEFAULTS.get(name, "") for name in COMPARABLE)
                rows = found.pop(protocol, {})
                found[protocol] = rows | {row["metric"]: row}
        return found

    def floor(self, row: Row) -> str:
        """The figure of held-out images in that metric."""
        floors = {
            float(other["n"]): other["value"]
            for other in self.metrics
            if other["metric"] == row["metric"] + "_floor" and other["reference"] == row["reference"]
        }
        # At as many images as were generated or, if fewer are held out, at all of them.
        n = max((n for n in floors if n <= float(row["n"])), default=None)
        return "" if n is None else floors[n]

    def last(self, metric: str) -> Row | None:
        return next((row for row in reversed(self.metrics) if row["metric"] == metric), None)


def read(folders: Sequence[Path]) -> list[Run]:
    """UserError for a folder given twice, or without the tables of `NoiseLevels`."""
    names = [folder.resolve().name for folder in folders]
    runs = []
    for folder, name in zip(folders, names, strict=True):
        if sum(other.resolve() == folder.resolve() for other in folders) > 1:
            raise UserError(f"{folder}: named twice")
        report = replace(noise_levels.read(folder), name=name if names.count(name) == 1 else str(folder))
        path = folder / "metrics.csv"
        runs.append(Run(report.name, report, read_metrics(path) if path.is_file() else []))
    return runs


def common_protocol(runs: Sequence[Run]) -> Protocol | None:
    """The protocol under which every evaluated run was measured, the newest if there are several; None without evaluations.

    UserError says in what they differ if there is none.
    """
    measured = {run.name: run.evaluations() for run in runs if run.evaluations()}
    if not measured:
        return None
    first, *others = measured
    for protocol in reversed(measured[first]):
        if all(protocol in measured[other] for other in others):
            return protocol
    mine = list(measured[first])[-1]
    for other in others:
        if not set(measured[first]) & set(measured[other]):
            theirs = list(measured[other])[-1]
            break
    else:
        raise UserError("the runs have no protocol in common, though each two of them have; evaluate all of them alike")
    differences = [
        f"{name} {a or NOTHING} and {b or NOTHING}"
        for name, a, b in zip(COMPARABLE, mine, theirs, strict=True)
        if a != b
    ]
    raise UserError(
        f"{first} and {other}: their figures do not compare: {', '.join(differences)}; evaluate both with the same options"
    )


def table(runs: Sequence[Run], protocol: Protocol | None) -> list[Row]:
    """Rows by `HEADER`: the mean loss at the end, its variance's spread over levels, and each figure of that protocol."""
    rows: list[Row] = []
    for run in runs:
        shared = dict.fromkeys(HEADER, "") | {"run": run.name, "images": str(run.noise.images[-1])}
        trained = run.last("train/unweighted_loss")
        if trained is not None:
            rows.append(shared | {name: trained[name] for name in ("images", "metric", "value")})
        rows.append(shared | {"metric": "variance_spread", "value": f"{run.noise.variance_spread():.6g}"})
        figures = run.evaluations().get(protocol, {}) if protocol is not None else {}
        for row in figures.values():
            rows.append(shared | {name: row[name] for name in HEADER if name in row} | {"floor": run.floor(row)})
    return rows


def as_text(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """One line for each metric, one column for each run, the floor beside them."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    widths = [max(len(run.name), 9) + 2 for run in runs]
    lines = [f"{'':<24}" + "".join(f"{run.name:>{w}}" for run, w in zip(runs, widths, strict=True)) + f"{'floor':>11}"]
    for metric in metrics:
        here = {row["run"]: row for row in rows if row["metric"] == metric}
        values = [_short(here[run.name]["value"]) if run.name in here else "-" for run in runs]
        floors = list(dict.fromkeys(_short(row["floor"]) for row in here.values() if row["floor"]))
        cells = "".join(f"{value:>{w}}" for value, w in zip(values, widths, strict=True))
        lines.append(f"{metric:<24}{cells}{' to '.join(floors):>11}")
    return "\n".join(line.rstrip() for line in lines)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)


def draw(runs: Sequence[Run]) -> Figure:
    """The curves of all runs in the same axes, one colour each; their heatmaps side by side on one colour scale."""
    reports = [run.noise for run in runs]
    columns = min(len(runs), HEATMAPS_IN_A_ROW)
    rows = -(-len(runs) // HEATMAPS_IN_A_ROW)
    figure = Figure(figsize=(15, 5.4 + 3.3 * rows), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[5.4, 3.3 * rows])[:, 0]

    mean, variance, effort = top.subplots(1, 3)
    palette = colormaps["tab10" if len(runs) <= 10 else "turbo"]
    for index, report in enumerate(reports):
        color = palette(index if len(runs) <= 10 else index / (len(runs) - 1))
        noise_levels_figure.draw_mean(mean, report, report.name, color)
        noise_levels_figure.draw_variance(variance, report, report.name, color)
        effort.plot(
            report.levels.numpy(), report.columns["effective_weight"].numpy(), lw=1.4, label=report.name, color=color
        )
    effort.set_ylim(bottom=0)
    noise_levels_figure.frame(mean, reports, "Unweighted loss: mean ± standard error", noise_levels_figure.LOSS_LABEL)
    noise_levels_figure.frame(
        variance, reports, "Variance of the unweighted loss", "variance between samples of one level"
    )
    noise_levels_figure.frame(
        effort, reports, "Training effort: p · w, scaled to area one", "share per unit of log-SNR"
    )
    handles, labels = effort.get_legend_handles_labels()
    top.suptitle("The training loss at each noise level, over the last quarter of each training", fontsize=12)
    top.legend(handles, labels, loc="outside lower center", ncols=min(len(runs), 6), frameon=False)

    limits = noise_levels_figure.colour_limits(reports)
    span = (min(report.span[0] for report in reports), max(report.span[1] for report in reports))
    bottom.suptitle("Variance of the unweighted loss through training, all on one colour scale", fontsize=12)
    maps = bottom.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in maps.flat[len(runs) :]:
        axes.set_axis_off()
    for axes, report in zip(maps.flat, reports, strict=False):
        mesh = noise_levels_figure.draw_heatmap(axes, report, limits)
        axes.set(ylim=span, xlim=(0, max(other.images[-1] for other in reports) / 1000))
        axes.set_title(report.name, fontweight="bold", fontsize=11)
    for axes in maps[:, 0]:
        axes.set_ylabel("log-SNR   ← noisier   cleaner →")
    bottom.colorbar(mesh, ax=maps, label=noise_levels_figure.COLOUR_LABEL.replace("   (", "\n("), extend="both")
    return figure


def _short(value: str) -> str:
    number = float(value) if value else math.nan
    return f"{number:.4g}"
