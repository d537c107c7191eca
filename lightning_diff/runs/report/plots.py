"""The plots that the report is made of, as plotly's figures: lines over images, noise levels or evaluations, and heatmaps.

Colours of text, grid and background are the page's business (script.js), which knows whether it is read in the dark.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito's, fit for the colour-blind
GREY = "#8a8f98"  # of what belongs to no run
DASHES = {"solid": "circle", "dash": "square", "dot": "diamond", "dashdot": "x"}  # with the marks of their points
MOST_POINTS = 2000  # of the lines of one plot, together
IMAGES = "training images seen"


class Line(NamedTuple):
    """A curve.

    Args:
        name: in the legend.
        x, y: of its points.
        colour: number of its colour, the run's; -1 for what belongs to no run.
        dash: of its stroke.
        error: half the height of its error bars; None for none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dash: str = ""
    error: Sequence[float] | None = None


class Plot(NamedTuple):
    """A figure of plotly's.

    Args:
        title: its heading.
        alt: what it shows, for who cannot see it.
        figure: as JSON.
    """

    title: str
    alt: str
    figure: str


def lines(
    title: str, curves: Sequence[Line], xlabel: str = IMAGES, ylabel: str = "", *, markers: bool = False
) -> Plot | None:
    """Curves in one plot, on a logarithmic axis where they span more than a factor of ten; None where no point is a number."""
    curves = [each for each in curves if any(math.isfinite(y) for y in each.y)]
    if not curves:
        return None
    figure = go.Figure()
    for each in curves:
        x, y = np.asarray(each.x, np.float64), np.asarray(each.y, np.float64)
        kept = thinned(y, MOST_POINTS // len(curves)) if each.error is None else np.arange(len(y))
        stroke = {"color": COLOURS[each.colour % len(COLOURS)] if each.colour >= 0 else GREY, "width": 1.6}
        dash = each.dash or list(DASHES)[each.colour // len(COLOURS) % len(DASHES)]
        figure.add_scatter(
            x=short(x[kept]),
            y=short(y[kept]),
            name=shown(each.name),
            mode="lines+markers" if markers or len(kept) == 1 else "lines",
            line=stroke | {"dash": dash},
            marker={"symbol": DASHES[dash]},
            error_y=None if each.error is None else {"array": short(each.error), "thickness": 1, "width": 2},
        )
    values = [y for each in curves for y in each.y if math.isfinite(y)]
    is_wide = min(values) > 0 and max(values) > 10 * min(values)
    _finish(figure, xlabel, ylabel, len(curves))
    # Numbers in full at the ticks of a logarithmic axis: plotly's own are digits without their power.
    figure.update_yaxes(
        **({"type": "log", "tickformat": "~g", "nticks": 8} if is_wide else {"exponentformat": "power"})
    )
    return Plot(title, f"{title}, over {xlabel}. {'. '.join(map(_said, curves))}.", figure.to_json())


def heatmap(
    title: str,
    x: Sequence[float],
    y: Sequence[float],
    z: Float64[np.ndarray, "y x"],
    limits: tuple[float, float],
    labels: tuple[str, str, str],
) -> Plot:
    """A map of values, NaN where blank; `labels`: of x, y and the colours, on a scale from limits[0] to limits[1]."""
    figure = go.Figure()
    colours = {"title": {"text": shown(labels[2]), "side": "right"}, "thickness": 12}
    cells = [short(row) for row in z]
    figure.add_heatmap(
        x=list(x), y=short(y), z=cells, zmin=limits[0], zmax=limits[1], colorscale="Viridis", colorbar=colours
    )
    _finish(figure, labels[0], labels[1], 1)
    known = z[np.isfinite(z)]
    said = f"values from {known.min():.3g} to {known.max():.3g}" if known.size else "no values"
    return Plot(title, f"{title}: {labels[1]} over {labels[0]}, {said}.", figure.to_json())


def thinned(y: Float64[np.ndarray, " n"], most: int) -> np.ndarray:
    """Which points to draw, at most about so many: of each window the least and the largest, so that no spike is lost."""
    if len(y) <= max(most, 4):
        return np.arange(len(y))
    kept = {0, len(y) - 1}
    for window in np.array_split(np.arange(len(y)), max(most, 4) // 2):
        known = window[np.isfinite(y[window])]
        if len(known):
            kept |= {int(known[y[known].argmin()]), int(known[y[known].argmax()])}
    return np.array(sorted(kept))


def short(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """To six digits, which is more than a screen shows; None for what is no number, a gap."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in np.asarray(values, float).tolist()]


def shown(text: str) -> str:
    """A text that plotly draws as it is, line by line: it would take tags for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>")


def _finish(figure: Any, xlabel: str, ylabel: str, curves: int) -> None:
    figure.update_layout(
        template="none",
        margin={"l": 58, "r": 12, "t": 30, "b": 46},
        showlegend=curves > 1,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},  # below, it would cover the axis's title
        hovermode="closest",
    )
    figure.update_xaxes(title={"text": shown(xlabel), "standoff": 8, "font": {"size": 12}})
    figure.update_yaxes(title={"text": shown(ylabel), "standoff": 8, "font": {"size": 12}})


def _said(line: Line) -> str:
    known = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    (first_x, first), (last_x, last) = known[0], known[-1]
    if len(known) == 1:
        return f"{line.name}: {first:.4g} at {first_x:,.6g}"
    return f"{line.name}: from {first:.4g} at {first_x:,.6g} to {last:.4g} at {last_x:,.6g}"
