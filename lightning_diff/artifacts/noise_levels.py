"""The loss at each noise level as files and as pictures: what the callback `NoiseLevels` writes and `compare` reads.

    noise_levels.csv           one row per bin of log-SNR, over the last quarter of the training; after the columns below, means
                               of what else the training step measured: a consistency model's tangent_norm, dF_dt, warmup
    noise_levels_history.csv   count, mean and variance per window of the training and bin: the heatmap
    noise_levels.json          the images that the table covers, and the suggested noise law
    noise_levels.png           all of it

A cell of a bin in which too little was seen to know is empty, and the curve has a gap there.
"""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from ..noise import log_snr_to_sigma, sigma_to_t
from ..noise.moments import NoiseLevelMoments

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
SIGMA_LABEL = "noise level σ"
LOSS_LABEL = "|F − target|², per pixel\n(an output of zero has about 1)"
SHOWN = 8  # samples that a cell of the heatmap needs: the variance of fewer is mostly noise
COLOUR_LABEL = f"log10 of the variance   (blank: fewer than {SHOWN} samples)"
T_LABEL = "angle t = arctan(σ / σ_data)        ← cleaner      noisier →"
LOG_SNR_LABEL = "log-SNR  λ = ln(σ_data² / σ²)        ← noisier      cleaner →"


class Suggestion(NamedTuple):
    """Parameters of a `LogNormal`."""

    P_mean: float
    P_std: float


@dataclass
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
    columns: dict[str, Float[Tensor, " bins"]]
    images: list[int]
    history: Float[Tensor, "windows 3 bins"]
    since: int = 0
    details: dict[str, Float[Tensor, " bins"]] = field(default_factory=dict)

    @property
    def levels(self) -> Float[Tensor, " bins"]:
        return self.columns["log_snr"]

    @property
    def width(self) -> float:
        """Of a bin, in log-SNR."""
        return float(self.levels[-1] - self.levels[0]) / (len(self.levels) - 1)

    @property
    def sigma_data(self) -> float:
        return float(self.columns["sigma"][0] * (self.levels[0] / 2).exp())

    @property
    def span(self) -> tuple[float, float]:
        """The log-SNR that was seen, but for the emptiest thousandth on either side."""
        counts = self.columns["count"]
        below = counts.cumsum(0) / counts.sum()
        seen = self.levels[(below >= 1e-3) & (below - counts / counts.sum() <= 1 - 1e-3)]
        return float(seen[0]) - self.width / 2, float(seen[-1]) + self.width / 2

    def variance_spread(self) -> float:
        """Largest over smallest variance of the unweighted loss, among bins that hold a hundredth of the samples each."""
        counts = self.columns["count"]
        variance = self.columns["variance"][counts >= 0.01 * counts.sum()]
        return float(variance.max() / variance.min())

    def suggestion(self) -> Suggestion | None:
        """A LogNormal to draw noise levels from; None without weights or losses.

        The gradient of the objective, which is p(sigma) w(sigma), is estimated with least variance when levels are drawn in
        proportion to p w sqrt(E|grad|^2) and reweighted to keep the objective (importance sampling). As in improved DDPM
        (arXiv 2102.09672, section 3.3) the loss stands for the gradient's norm. This returns the LogNormal with the mean
        and standard deviation of ln sigma under that density (less h^2/12 for bins of width h, Sheppard's correction).

        It says where this objective is noisy. It does not say which objective gives the best samples; used without
        reweighting, it moves the effort too; it knows nothing of levels that were never drawn.
        """
        second = (self.columns["mean"] ** 2 + self.columns["variance"]).sqrt()
        q = (self.columns["effective_weight"] * second).nan_to_num(0.0)
        if not float(q.sum()) > 0:
            return None
        q = q / q.sum()
        log_sigma = self.columns["sigma"].log()
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

    def write(self, folder: Path) -> None:
        """Tables and picture."""
        self.write_tables(folder)
        with replacing(folder / "noise_levels.png") as temporary:
            draw(self).savefig(temporary, dpi=110)

    def write_tables(self, folder: Path) -> None:
        with replacing(folder / "noise_levels.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            table = {name: self.columns[name] for name in COLUMNS} | self.details
            writer.writerow(table)
            writer.writerows(_cells(torch.stack([column.double() for column in table.values()], 1)))
        with replacing(folder / "noise_levels_history.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HISTORY)
            for images, window in zip(self.images, self.history, strict=True):
                for cells, level in zip(_cells(window.T), self.levels.tolist(), strict=True):
                    if cells[0] != "0":
                        writer.writerow([images, f"{level:.6g}", *cells])
        suggestion = self.suggestion()
        record: dict[str, Any] = {"images": [self.since, self.images[-1]], "suggestion": None}
        if suggestion is not None:
            record["suggestion"] = {name: round(value, 4) for name, value in suggestion._asdict().items()}
            record["suggestion"]["rule"] = RULE
        with replacing(folder / "noise_levels.json") as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")


def report(
    name: str,
    levels: Float[Tensor, " bins"],
    sigma_data: float,
    moments: NoiseLevelMoments,
    weight: Float[Tensor, " bins"],
    gradient_square: Float[Tensor, " bins"],
    images: list[int],
    history: Float[Tensor, "windows 3 bins"],
    since: int,
    details: dict[str, Float[Tensor, " bins"]] | None = None,
) -> NoiseReport:
    """All columns from what was measured.

    Args:
        levels: log-SNR at the middle of each bin.
        moments: of the unweighted loss.
        weight: mean weight of the samples in each bin, NaN where none fell.
        gradient_square: mean over samples of |grad loss|^2, unweighted, NaN where not measured.
        name, sigma_data, images, history, since, details: see `NoiseReport`.
    """
    density = moments.count / moments.count.sum() / (levels[1] - levels[0])
    effective = density * weight
    square = weight**2 * gradient_square
    power = moments.count * square
    columns = (
        levels,
        log_snr_to_sigma(levels, sigma_data),
        moments.count,
        moments.mean,
        moments.standard_error,
        moments.variance,
        moments.coefficient_of_variation,
        density,
        weight,
        effective / (effective.nansum() * (levels[1] - levels[0])),
        square.sqrt(),
        power / power.nansum(),
    )
    return NoiseReport(name, dict(zip(COLUMNS, columns, strict=True)), images, history, since, details or {})


def read(folder: Path) -> NoiseReport:
    """What a run folder holds. UserError names the file that is missing or is no such table."""
    table = _read_csv(folder / "noise_levels.csv", COLUMNS)
    if len(table) < 2:
        raise UserError(f"{folder / 'noise_levels.csv'}: holds no noise levels")
    columns = {name: torch.tensor([row[name] for row in table], dtype=torch.float64) for name in table[0]}
    details = {name: columns.pop(name) for name in list(columns) if name not in COLUMNS}
    levels = columns["log_snr"]
    rows = _read_csv(folder / "noise_levels_history.csv", HISTORY)
    images = sorted({int(row["images"]) for row in rows})
    history = torch.full((len(images), 3, len(levels)), torch.nan, dtype=torch.float64)
    history[:, 0] = 0
    window = {number: index for index, number in enumerate(images)}
    step = float(levels[1] - levels[0])
    for row in rows:
        bin = round((row["log_snr"] - float(levels[0])) / step)
        if not 0 <= bin < len(levels):
            raise UserError(f"{folder / 'noise_levels_history.csv'}: has other bins than noise_levels.csv")
        history[window[int(row["images"])], :, bin] = torch.tensor([row["count"], row["mean"], row["variance"]])
    return NoiseReport(folder.name, columns, images, history, details=details)


def _read_csv(path: Path, header: tuple[str, ...]) -> list[dict[str, float]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; the run needs the callback NoiseLevels")
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            names = tuple(reader.fieldnames or ())
            if names[: len(header)] != header:
                raise UserError(f"{path}: not a table of this version; its columns should be {', '.join(header)}")
            return [{name: float(row[name]) if row[name] else math.nan for name in names} for row in reader]
    except (ValueError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: damaged: {error}") from error


def _cells(rows: Tensor) -> list[list[str]]:
    return [["" if value != value else f"{value:.6g}" for value in row] for row in rows.tolist()]


# --- pictures ---


def draw(report: NoiseReport) -> Figure:
    """One run: the loss, its variance, where the effort goes, and the variance through training."""
    rows = 3 if report.details else 2
    figure = Figure(figsize=(13.5, 4.6 * rows), layout="constrained")
    panels = figure.subplots(rows, 2)
    (top_left, top_right), (bottom_left, bottom_right) = panels[:2]
    figure.suptitle(
        f"{report.name}: the training loss at each noise level\n"
        f"curves are averages over images {_number(report.since)} to {_number(report.images[-1])} of the training",
        fontsize=12,
    )
    figure.supxlabel(report.sentence(), fontsize=10)
    draw_mean(top_left, report, label="mean ± standard error")
    top_left.legend(frameon=False, fontsize=8)
    draw_variance(top_right, report)
    draw_effort(bottom_left, report)
    frame(top_left, [report], "Unweighted loss", LOSS_LABEL)
    frame(top_right, [report], "Variance of the unweighted loss", "variance between samples of one level")
    frame(bottom_left, [report], "Where the training effort goes", "share per unit of log-SNR")
    mesh = draw_heatmap(bottom_right, report, colour_limits([report]))
    bottom_right.set(ylim=report.span)
    bottom_right.set_title("Variance of the unweighted loss, through training", fontweight="bold", fontsize=11)
    bottom_right.set_ylabel("log-SNR  λ        ← noisier      cleaner →")
    figure.colorbar(mesh, ax=bottom_right, label=COLOUR_LABEL, extend="both")
    if report.details:
        draw_details(panels[2, 0], panels[2, 1], report)
    return figure


def draw_details(left: Axes, right: Axes, report: NoiseReport) -> None:
    """What a consistency model's training measures, over TrigFlow's angle t: the tangent; the loss and its weight."""
    t = sigma_to_t(report.columns["sigma"], report.sigma_data).numpy()
    labels = {"tangent_norm": "tangent |g|, before it is normalised", "dF_dt": "|dF/dt|"}
    shares = {name: column for name, column in report.details.items() if name == "warmup"}
    for name, column in report.details.items():
        if name not in shares:
            left.plot(t, column.numpy(), "o-", ms=3, lw=1.2, label=labels.get(name, name))
    for name, label in (("mean", "unweighted loss"), ("weight", "its weight")):
        right.plot(t, report.columns[name].numpy(), "o-", ms=3, lw=1.2, label=label)
    share = "".join(f" (warm-up share {float(column.nanmean()):.2f})" for column in shares.values())
    for axes, title in ((left, f"Tangents{share}"), (right, "Loss and weight")):
        axes.set(yscale="log", xlabel=T_LABEL)
        axes.set_title(title, fontweight="bold", fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)


def draw_mean(axes: Axes, report: NoiseReport, **style: Any) -> None:
    """Curve with error bars."""
    columns = {name: report.columns[name].numpy() for name in ("log_snr", "mean", "standard_error")}
    axes.errorbar(
        columns["log_snr"], columns["mean"], columns["standard_error"], fmt="o-", ms=3, lw=1.2, capsize=2, **style
    )
    axes.set_yscale("log")


def draw_variance(axes: Axes, report: NoiseReport, **style: Any) -> None:
    axes.plot(report.levels.numpy(), report.columns["variance"].numpy(), "o-", ms=3, lw=1.2, **style)
    axes.set_yscale("log")


def draw_effort(axes: Axes, report: NoiseReport) -> None:
    """Densities over log-SNR that integrate to one."""
    x, columns = report.levels.numpy(), report.columns
    axes.fill_between(
        x, columns["density"].numpy(), color="0.82", step="mid", label="how often a level is drawn (noise law p)"
    )
    axes.plot(x, columns["effective_weight"].numpy(), lw=1.6, label="times its weight (p · w, scaled to area one)")
    share = columns["gradient_share"] / report.width
    if bool(share.isfinite().any()):
        axes.plot(x, share.numpy(), lw=1.6, color="C3", label="its share of the squared gradient norm")
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def frame(axes: Axes, reports: list[NoiseReport], title: str, ylabel: str) -> None:
    """Limits and labels; sigma on top, where the runs agree on sigma_data."""
    spans = [report.span for report in reports]
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    axes.set(xlim=(low, high), xlabel=LOG_SNR_LABEL, ylabel=ylabel)
    axes.set_title(title, fontweight="bold", fontsize=11)
    axes.grid(alpha=0.3)
    if axes.get_yscale() == "log":
        _fit_height(axes, low, high)
    if any(abs(report.sigma_data / reports[0].sigma_data - 1) > 1e-3 for report in reports):
        return
    scale = 2 * math.log(10)  # log-SNR per factor of ten of sigma
    origin = 2 * math.log(reports[0].sigma_data)

    def to_log_sigma(log_snr: Any) -> Any:
        return (origin - log_snr) / scale

    def to_log_snr(log_sigma: Any) -> Any:
        return origin - scale * log_sigma

    top = axes.secondary_xaxis("top", functions=(to_log_sigma, to_log_snr))
    top.set_xticks(
        [k / 2 for k in range(-10, 11)], [f"{float(f'{10 ** (k / 2):.1g}'):g}" for k in range(-10, 11)], fontsize=8
    )
    top.set_xlabel(SIGMA_LABEL, fontsize=8)


def _fit_height(axes: Axes, low: float, high: float) -> None:
    """The curves inside the limits fill the panel; an error bar that reaches zero must not stretch a log axis."""
    seen: list[float] = []
    for line in axes.get_lines():
        if line.get_linestyle() != "None":  # those are the error bars' caps
            x, y = (np.asarray(values, float) for values in line.get_data())
            seen += y[(x >= low) & (x <= high) & (y > 0)].tolist()
    if seen:
        axes.set_ylim(min(seen) / 1.5, max(seen) * 1.5)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        narrow = max(seen) / min(seen) < 100  # one or two powers of ten are too few labels
        labelled = "235" if narrow else ""
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:.1g}" if f"{y:.0e}"[0] in labelled else ""))


def draw_heatmap(axes: Axes, report: NoiseReport, limits: tuple[float, float]) -> Any:
    """log10 variance, training time by log-SNR; blank where fewer than `SHOWN` samples fell."""
    edges_x = torch.tensor([0, *report.images], dtype=torch.float64) / 1000
    half = report.width / 2
    edges_y = torch.cat([report.levels - half, report.levels[-1:] + half])
    axes.set_facecolor("0.93")
    mesh = axes.pcolormesh(
        edges_x.numpy(),
        edges_y.numpy(),
        torch.where(report.history[:, 0] >= SHOWN, report.history[:, 2], torch.nan).log10().T.numpy(),
        cmap="viridis",
        vmin=limits[0],
        vmax=limits[1],
        rasterized=True,
    )
    axes.set_xlabel("thousand training images seen")
    return mesh


def colour_limits(reports: list[NoiseReport]) -> tuple[float, float]:
    """A scale of log10 variance for all: without the few extremes that bins of a handful of samples give."""
    values = torch.cat([report.history[:, 2][report.history[:, 0] >= SHOWN].flatten() for report in reports])
    values = values[values > 0].log10()
    if not len(values):
        return -4.0, 0.0
    low, high = (float(values.quantile(q)) for q in (0.02, 0.98))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _number(images: int) -> str:
    return f"{images / 1e6:.3g} million" if images >= 10**6 else f"{images:,}"
