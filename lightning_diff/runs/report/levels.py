"""Plots over noise levels: the loss, its variance, where the effort goes, and the variance through training."""

from collections.abc import Sequence

import numpy as np

from ...artifacts.noise_levels import NoiseReport
from ...artifacts.noise_levels_figure import LOSS_LABEL, SHOWN, colour_limits
from .plots import IMAGES, Line, Plot, heatmap, lines
from .record import Record

LOG_SNR = "log-SNR λ = ln(σ_data²/σ²)   ← noisier"  # no longer than a phone is wide
SHARE = "share per unit of log-SNR"
MOST_MAPS = 8  # of so many runs, the first ones
MOST_WINDOWS = 200  # of a map


def plots(records: Sequence[Record]) -> list[Plot]:
    """Of the runs that measured their loss by noise level (callbacks NoiseLevels and Validation); [] for none."""
    measured = [(colour, each, each.run.noise) for colour, each in enumerate(records) if each.run.noise is not None]
    if not measured:
        return []
    loss = [
        _line(each.name, colour, report, "mean", error=report.columns["standard_error"])
        for colour, each, report in measured
    ]
    found = [
        lines("Unweighted loss: mean ± standard error", [*loss, *_held_out(records)], LOG_SNR, LOSS_LABEL),
        lines(
            "Variance of the unweighted loss",
            [_line(each.name, colour, report, "variance") for colour, each, report in measured],
            LOG_SNR,
            "between samples of one level",
        ),
        lines("Where the training effort goes", _effort(measured), LOG_SNR, SHARE),
        *_details(measured),
    ]
    reports = [report for _, _, report in measured[:MOST_MAPS]]
    limits = colour_limits(reports)
    maps = [_map(each.name, report, limits) for _, each, report in measured[:MOST_MAPS]]
    return [plot for plot in [*found, *maps] if plot is not None]


def _line(
    name: str, colour: int, report: NoiseReport, column: str, dash: str = "", error: np.ndarray | None = None
) -> Line:
    low, high = report.span
    seen = (report.levels >= low) & (report.levels <= high)
    values = report.columns[column] if column in report.columns else report.details[column]
    errors = None if error is None else error[seen].tolist()
    return Line(name, report.levels[seen].tolist(), values[seen].tolist(), colour, dash, errors)


def _held_out(records: Sequence[Record]) -> list[Line]:
    return [
        Line(
            f"{each.name}: held-out images",
            [row.log_snr for row in each.held_out],
            [row.loss for row in each.held_out],
            colour,
            "dot",
            [row.standard_error for row in each.held_out],
        )
        for colour, each in enumerate(records)
        if each.held_out
    ]


def _effort(measured: Sequence[tuple[int, Record, NoiseReport]]) -> list[Line]:
    curves = []
    for colour, each, report in measured:
        curves.append(_line(f"{each.name}: drawn, p", colour, report, "density", "dot"))
        curves.append(_line(f"{each.name}: times its weight, p·w", colour, report, "effective_weight"))
        if np.isfinite(report.columns["gradient_share"]).any():
            share = _line(f"{each.name}: of the squared gradient", colour, report, "gradient_share", "dash")
            curves.append(share._replace(y=[value / report.width for value in share.y]))
    return curves


def _details(measured: Sequence[tuple[int, Record, NoiseReport]]) -> list[Plot | None]:
    """What else the training step measured by level: a consistency model's tangents."""
    names = dict.fromkeys(name for _, _, report in measured for name in report.details)
    return [
        lines(
            f"{name}, by noise level",
            [_line(each.name, colour, report, name) for colour, each, report in measured if name in report.details],
            LOG_SNR,
        )
        for name in names
    ]


def _map(name: str, report: NoiseReport, limits: tuple[float, float]) -> Plot:
    """log10 of the variance; blank where fewer than `SHOWN` samples fell."""
    windows = np.unique(
        np.linspace(0, len(report.images) - 1, min(len(report.images), MOST_WINDOWS)).round().astype(int)
    )
    low, high = report.span
    seen = (report.levels >= low) & (report.levels <= high)
    history = report.history[windows][:, :, seen]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log10(np.where((history[:, 0] >= SHOWN) & (history[:, 2] > 0), history[:, 2], np.nan))
    labels = (IMAGES, "log-SNR λ", "log10 of the variance")
    x = [float(report.images[window]) for window in windows]
    return heatmap(
        f"Variance of the loss through training: {name}", x, report.levels[seen].tolist(), values.T, limits, labels
    )
