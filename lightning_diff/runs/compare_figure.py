"""The picture of compared runs: learning curves, losses per noise level, heatmaps; one colour for each experiment."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType

from ..artifacts import noise_levels_figure
from .compare import LOSS, Protocol, Run
from .compare_groups import Group, Series, mean_and_interval
from .listing import DISTANCES, REWARD

HEATMAPS_IN_A_ROW = 4
CURVES, PANELS, MAPS, REMARK = 3.9, 5.0, 3.3, 0.24  # heights in inches; of one row of heatmaps, of one remark
FIGURES = 2  # metrics with a curve of their own


def draw(shown: Sequence[Series], remarks: Sequence[str] = ()) -> Figure:
    """Learning curves over images; below them the losses at each noise level, and their heatmaps on one colour scale.

    A series with a * in its name does not compare in everything with the first; the remarks, which say why, stand at the bottom.
    """
    colours = _colours(shown)
    groups = list({id(each.group): each.group for each in shown}.values())
    with_noise = [group for group in groups if any(run.noise is not None for run in group.runs)]
    rows = -(-len(with_noise) // HEATMAPS_IN_A_ROW)
    heights = [CURVES + 0.5, *([PANELS, MAPS * rows + 0.3] if with_noise else ())]
    foot = REMARK * len(remarks)
    figure = Figure(figsize=(15, sum(heights) + foot), layout="constrained")
    ratios = [*heights, foot] if remarks else heights
    parts = figure.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False)
    _draw_learning(parts[0, 0], shown, colours)
    if with_noise:
        own = {id(each.group): colour for each, colour in reversed(list(zip(shown, colours, strict=True)))}
        _draw_levels(parts[1, 0], with_noise, [own[id(group)] for group in with_noise])
        _draw_heatmaps(parts[2, 0], with_noise, rows)
    if remarks:
        lines = [line if len(line) <= 190 else line[:187] + "..." for line in remarks]
        parts[-1, 0].text(0.01, 0.95, "\n".join(lines), fontsize=9, va="top", parse_math=False)
    return figure


def _draw_learning(part: SubFigure, shown: Sequence[Series], colours: Sequence[ColorType]) -> None:
    """Loss and the figures that most runs have, over training images; a band is the 95 % interval over seeds."""
    metrics = _metrics(shown)
    axes, *others = part.subplots(1, 1 + len(metrics), squeeze=False)[0]
    drawn = set()
    for each, colour in zip(shown, colours, strict=True):
        if id(each.group) not in drawn:
            _draw_curve(axes, each.group, LOSS, None, colour, dashed=bool(each.losses_differ))
            drawn.add(id(each.group))
        for panel, metric in zip(others, metrics, strict=True):
            protocol = None if metric == REWARD else each.protocol
            _draw_curve(panel, each.group, metric, protocol, colour, dashed=bool(each.figures_differ), marker="o")
    for panel, metric in zip((axes, *others), (LOSS, *metrics), strict=True):
        _frame(panel, metric)
    handles = [
        Line2D([], [], color=colour, ls="--" if each.label.endswith("*") else "-", label=_legend(each))
        for each, colour in zip(shown, colours, strict=True)
    ]
    with matplotlib.rc_context({"text.parse_math": False}):
        part.legend(handles=handles, loc="outside lower center", ncols=min(len(shown), 6), frameon=False)
    part.suptitle("Through training; dashed: does not compare", fontsize=12)


def _draw_curve(
    axes: Axes,
    group: Group,
    metric: str,
    protocol: Protocol | None,
    colour: ColorType,
    *,
    dashed: bool,
    marker: str = "",
) -> None:
    curves = [curve for run in group.runs if (curve := run.curve(metric, protocol))]
    if not curves:
        return
    images = sorted(set.intersection(*map(set, curves)))
    found = [mean_and_interval([curve[at] for curve in curves]) for at in images]
    thousands = [at / 1000 for at in images]
    axes.plot(
        thousands, [mean for mean, _ in found], ls="--" if dashed else "-", marker=marker, ms=4, lw=1.3, color=colour
    )
    if len(curves) > 1:
        low, high = ([mean + sign * (half or 0.0) for mean, half in found] for sign in (-1, 1))
        axes.fill_between(thousands, low, high, color=colour, alpha=0.2, lw=0)


def _frame(axes: Axes, metric: str) -> None:
    axes.set_title("Unweighted loss" if metric == LOSS else metric, fontweight="bold", fontsize=11, parse_math=False)
    axes.set_xlabel("thousand training images seen")
    axes.grid(alpha=0.3)
    values = [float(y) for line in axes.get_lines() for y in np.asarray(line.get_ydata(), float) if y == y]
    if not values:
        axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", color="0.5")
    elif min(values) > 0 and max(values) / min(values) > 10:
        axes.set_yscale("log")


def _draw_levels(part: SubFigure, groups: Sequence[Group], colours: Sequence[ColorType]) -> None:
    mean, variance, effort = part.subplots(1, 3)
    reports = [report for group in groups for report in _reports(group)]
    for group, colour in zip(groups, colours, strict=True):
        for report in _reports(group):
            noise_levels_figure.draw_mean(mean, report, "", colour)
            noise_levels_figure.draw_variance(variance, report, "", colour)
            effort.plot(report.levels, report.columns["effective_weight"], lw=1.4, color=colour)
    effort.set_ylim(bottom=0)
    noise_levels_figure.frame(mean, reports, "Unweighted loss: mean ± standard error", noise_levels_figure.LOSS_LABEL)
    title = "Variance of the unweighted loss"
    noise_levels_figure.frame(variance, reports, title, "variance between samples of one level")
    title = "Training effort: p · w, scaled to area one"
    noise_levels_figure.frame(effort, reports, title, "share per unit of log-SNR")
    part.suptitle("The training loss at each noise level, over the last quarter of each training", fontsize=12)


def _draw_heatmaps(part: SubFigure, groups: Sequence[Group], rows: int) -> None:
    """One for each group, of its first run."""
    reports = [_reports(group)[0] for group in groups]
    limits = noise_levels_figure.colour_limits(reports)
    span = (min(report.span[0] for report in reports), max(report.span[1] for report in reports))
    part.suptitle("Variance of the unweighted loss through training, all on one colour scale", fontsize=12)
    maps = part.subplots(rows, min(len(groups), HEATMAPS_IN_A_ROW), squeeze=False, sharey=True)
    for axes in maps.flat[len(groups) :]:
        axes.set_axis_off()
    for axes, report in zip(maps.flat, reports, strict=False):
        mesh = noise_levels_figure.draw_heatmap(axes, report, limits)
        axes.set(ylim=span, xlim=(0, max(other.images[-1] for other in reports) / 1000))
        axes.set_title(report.name, fontweight="bold", fontsize=11, parse_math=False)
    for axes in maps[:, 0]:
        axes.set_ylabel("log-SNR   ← noisier   cleaner →")
    part.colorbar(mesh, ax=maps, label=noise_levels_figure.COLOUR_LABEL.replace("   (", "\n("), extend="both")


def _reports(group: Group) -> list[noise_levels_figure.NoiseReport]:
    return [run.noise for run in group.runs if run.noise is not None]


def _metrics(shown: Sequence[Series]) -> list[str]:
    """At most `FIGURES` of what was measured, distances first, those that most series have."""
    measured: dict[str, int] = {}
    for each in shown:
        for metric in _measured(each):
            measured[metric] = measured.get(metric, 0) + 1
    kinds = (*DISTANCES, REWARD)

    def order(metric: str) -> tuple[int, int]:
        return next((i for i, kind in enumerate(kinds) if metric.startswith(kind)), len(kinds)), -measured[metric]

    return sorted(measured, key=order)[:FIGURES]


def _measured(each: Series) -> list[str]:
    figures = [] if each.protocol is None else list(each.group.evaluations().get(each.protocol, {}))
    return [*figures, *([REWARD] if any(_has(run, REWARD) for run in each.group.runs) else [])]


def _has(run: Run, metric: str) -> bool:
    return run.last(metric) is not None


def _legend(each: Series) -> str:
    n = len(each.group.runs)
    return each.label if n == 1 else f"{each.label} ({n} seeds)"


def _colours(shown: Sequence[Series]) -> list[ColorType]:
    palette = matplotlib.colormaps["tab10" if len(shown) <= 10 else "turbo"]
    return [palette(i if len(shown) <= 10 else i / (len(shown) - 1)) for i in range(len(shown))]
