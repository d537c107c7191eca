"""The loss at each noise level, as pictures: one run's `noise_levels.png`, and the panels from which `compare` draws several."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike

from ..foundation.atomic import replacing
from . import validation
from .noise_levels import NoiseReport

NAME = "noise_levels.png"
SIGMA_LABEL = "noise level σ"
LOSS_LABEL = "|F − target|², per pixel\n(an output of zero has about 1)"
SHOWN = 8  # samples that a cell of the heatmap needs: the variance of fewer is mostly noise
COLOUR_LABEL = f"log10 of the variance   (blank: fewer than {SHOWN} samples)"
T_LABEL = "angle t = arctan(σ / σ_data)        ← cleaner      noisier →"
LOG_SNR_LABEL = "log-SNR  λ = ln(σ_data² / σ²)        ← noisier      cleaner →"


def write(folder: Path, report: NoiseReport) -> None:
    """One run's tables and their picture, each whole or not at all."""
    report.write_tables(folder)
    held_out = validation.latest(validation.read(folder))
    with replacing(folder / NAME) as temporary:
        draw(report, held_out).savefig(temporary, dpi=110)


def draw(report: NoiseReport, held_out: Sequence[validation.Level] = ()) -> Figure:
    """One run: the loss, its variance, where the effort goes, and the variance through training.

    Args:
        report: of the training.
        held_out: the last measurement of the callback `Validation`, which stands beside the training loss.
    """
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
    draw_mean(top_left, report, label="training, mean ± standard error")
    draw_validation(top_left, held_out)
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
    """Panels of a consistency model's training, over TrigFlow's angle t: the tangent; the loss and its weight."""
    import torch

    from ..noise import sigma_to_t

    t = sigma_to_t(torch.from_numpy(report.columns["sigma"]), report.sigma_data).numpy()
    labels = {"tangent_norm": "tangent |g|, before it is normalised", "dF_dt": "|dF/dt|"}
    shares = {name: column for name, column in report.details.items() if name == "warmup"}
    for name, column in report.details.items():
        if name not in shares:
            left.plot(t, column, "o-", ms=3, lw=1.2, label=labels.get(name, name))
    for name, label in (("mean", "unweighted loss"), ("weight", "its weight")):
        right.plot(t, report.columns[name], "o-", ms=3, lw=1.2, label=label)
    share = "".join(f" (warm-up share {float(np.nanmean(column)):.2f})" for column in shares.values())
    for axes, title in ((left, f"Tangents{share}"), (right, "Loss and weight")):
        axes.set(yscale="log", xlabel=T_LABEL)
        axes.set_title(title, fontweight="bold", fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)


def draw_mean(axes: Axes, report: NoiseReport, label: str, color: ColorType | None = None) -> None:
    """Curve with error bars."""
    columns = {name: report.columns[name] for name in ("log_snr", "mean", "standard_error")}
    axes.errorbar(
        columns["log_snr"],
        columns["mean"],
        columns["standard_error"],
        fmt="o-",
        ms=3,
        lw=1.2,
        capsize=2,
        label=label,
        color=color,
    )
    axes.set_yscale("log")


def draw_validation(axes: Axes, held_out: Sequence[validation.Level]) -> None:
    """Held-out images and as many training images, with the same noise; nothing where nothing was measured."""
    if not held_out:
        return
    levels = [row.log_snr for row in held_out]
    kinds = (
        ("held-out images", "C3", [row.loss for row in held_out], [row.standard_error for row in held_out]),
        ("training images", "C2", [row.train_loss for row in held_out], [row.train_standard_error for row in held_out]),
    )
    for name, color, loss, error in kinds:
        label = f"{name}, averaged weights, image {_number(held_out[0].images)}"
        axes.errorbar(levels, loss, error, fmt="s-", ms=2.5, lw=1.0, capsize=1.5, color=color, label=label)


def draw_variance(axes: Axes, report: NoiseReport, label: str = "", color: ColorType | None = None) -> None:
    """The curve alone."""
    variance = report.columns["variance"]
    axes.plot(report.levels, variance, "o-", ms=3, lw=1.2, label=label or None, color=color)
    axes.set_yscale("log")


def draw_effort(axes: Axes, report: NoiseReport) -> None:
    """Densities over log-SNR that integrate to one."""
    x, columns = report.levels, report.columns
    axes.fill_between(x, columns["density"], color="0.82", step="mid", label="how often a level is drawn (noise law p)")
    axes.plot(x, columns["effective_weight"], lw=1.6, label="times its weight (p · w, scaled to area one)")
    share = columns["gradient_share"] / report.width
    if np.isfinite(share).any():
        axes.plot(x, share, lw=1.6, color="C3", label="its share of the squared gradient norm")
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

    def to_log_sigma(log_snr: ArrayLike) -> ArrayLike:
        return (origin - np.asarray(log_snr)) / scale

    def to_log_snr(log_sigma: ArrayLike) -> ArrayLike:
        return origin - scale * np.asarray(log_sigma)

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


def draw_heatmap(axes: Axes, report: NoiseReport, limits: tuple[float, float]) -> QuadMesh:
    """log10 variance, training time by log-SNR; blank where fewer than `SHOWN` samples fell."""
    edges_x = np.array([0, *report.images], np.float64) / 1000
    half = report.width / 2
    edges_y = np.concatenate([report.levels - half, report.levels[-1:] + half])
    axes.set_facecolor("0.93")
    mesh = axes.pcolormesh(
        edges_x,
        edges_y,
        _log10(np.where(report.history[:, 0] >= SHOWN, report.history[:, 2], np.nan)).T,
        cmap="viridis",
        vmin=limits[0],
        vmax=limits[1],
        rasterized=True,
    )
    axes.set_xlabel("thousand training images seen")
    return mesh


def colour_limits(reports: list[NoiseReport]) -> tuple[float, float]:
    """A scale of log10 variance for all: without the few extremes that bins of a handful of samples give."""
    values = np.concatenate([report.history[:, 2][report.history[:, 0] >= SHOWN] for report in reports])
    values = np.log10(values[values > 0])
    if not len(values):
        return -4.0, 0.0
    low, high = (float(q) for q in np.quantile(values, (0.02, 0.98)))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _log10(values: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """-inf of 0."""
    with np.errstate(divide="ignore"):
        logarithms: Float64[np.ndarray, "*shape"] = np.log10(values)
    return logarithms


def _number(images: int) -> str:
    return f"{images / 1e6:.3g} million" if images >= 10**6 else f"{images:,}"
