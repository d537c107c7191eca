"""Figures of quality: each with its protocol and the floor of held-out images, over images and over network evaluations."""

from collections.abc import Iterator, Sequence

from ...artifacts.metrics_columns import PROTOCOL
from ...artifacts.metrics_rows import Row
from .. import compare_groups, compare_table
from ..compare import COMPARABLE, HEADER, Protocol, Run, protocol_of
from ..listing import DISTANCES
from .markup import Element, table
from .plots import DASHES, Line, Plot, lines

OF_THE_SAMPLER = ("solver", "steps", "nfe", "sigmas")  # what may differ along a curve over evaluations
EVALUATIONS = "network evaluations for each sample (NFE)"
Key = tuple[str, ...]


def plots(runs: Sequence[Run]) -> list[Plot]:
    """For each metric, distances first, its curve over training images and, where there are several, over evaluations."""
    found = []
    for metric in metrics(runs):
        floors = _floors(runs, metric)
        for plot in (_over_images(runs, metric, floors), _over_evaluations(runs, metric, floors)):
            if plot is not None:
                found.append(plot)
    return found


def metrics(runs: Sequence[Run]) -> list[str]:
    """The names of what was measured of generated images."""
    names = {row["metric"] for run in runs for row in run.metrics if protocol_of(row) is not None}
    return sorted(names, key=lambda name: (not name.startswith(DISTANCES), name))


def tables(runs: Sequence[Run]) -> list[Element]:
    """Of each run the newest figure of each metric under each protocol; of several seeds first one row for each experiment."""
    found = []
    shown = compare_groups.series(compare_groups.grouped(runs))
    if any(len(each.group.runs) > 1 for each in shown):
        rows = compare_table.table(shown)
        caption = "Experiments: runs that differ in their seed alone are one, with mean and 95 % interval"
        found.append(_table(HEADER, rows, caption))
    rows = [row for run in runs for row in _rows(run)]
    if rows:
        header = ("run", "images", "metric", "value", "floor", *PROTOCOL)
        found.append(_table(header, rows, "Figures with their protocol; the floor is that of held-out images"))
    return found


def _table(header: Sequence[str], rows: Sequence[Row], caption: str) -> Element:
    """With the columns that say anything."""
    kept = [name for name in header if any(row.get(name) for row in rows)]
    return table(kept, [[_number(row.get(name, "")) for name in kept] for row in rows], caption)


def _rows(run: Run) -> Iterator[Row]:
    for rows in run.evaluations().values():
        for row in rows.values():
            yield row | {"run": run.name, "floor": run.floor(row)}


def _over_images(runs: Sequence[Run], metric: str, floors: Sequence[float]) -> Plot | None:
    curves = []
    for colour, run in enumerate(runs):
        protocols = list(dict.fromkeys(p for row in run.metrics if row["metric"] == metric and (p := protocol_of(row))))
        for number, protocol in enumerate(protocols):
            if curve := run.curve(metric, protocol):
                name = run.name if len(protocols) == 1 else f"{run.name}: {_sampler(protocol, protocols)}"
                dash = list(DASHES)[number % len(DASHES)] if number else ""
                curves.append(Line(name, list(curve), list(curve.values()), colour, dash))
    return lines(metric, [*curves, *_floor_lines(curves, floors)], markers=True)


def _over_evaluations(runs: Sequence[Run], metric: str, floors: Sequence[float]) -> Plot | None:
    """At the newest images of each run, and by solver; None where no two numbers of evaluations can be held against each other."""
    curves = []
    for colour, run in enumerate(runs):
        rows = [row for row in run.metrics if row["metric"] == metric and row["nfe"] and protocol_of(row) is not None]
        newest = max((float(row["images"] or 0) for row in rows), default=0.0)
        by_solver: dict[Key, dict[float, float]] = {}
        for row in rows:
            if float(row["images"] or 0) == newest:
                key = (row["solver"], *(row[name] for name in COMPARABLE if name not in OF_THE_SAMPLER))
                by_solver.setdefault(key, {})[float(row["nfe"])] = float(row["value"])
        for key, points in by_solver.items():
            points = dict(sorted(points.items()))
            curves.append(Line(f"{run.name}: {key[0]}", list(points), list(points.values()), colour))
    if len({x for each in curves for x in each.x}) < 2:
        return None
    return lines(f"{metric} over evaluations", [*curves, *_floor_lines(curves, floors)], EVALUATIONS, markers=True)


def _floors(runs: Sequence[Run], metric: str) -> list[float]:
    rows = [row for run in runs for row in run.metrics if row["metric"] == f"{metric}_floor"]
    return sorted({float(row["value"]) for row in rows})


def _floor_lines(curves: Sequence[Line], floors: Sequence[float]) -> list[Line]:
    """Across the plot; where only one point is known, beside it."""
    x = [value for each in curves for value in each.x]
    ends = [min(x), max(x)] if x else []
    return [Line("floor: held-out images", ends, [floor] * len(ends), -1, "dot") for floor in floors]


def _sampler(protocol: Protocol, others: Sequence[Protocol]) -> str:
    """What tells a protocol from the others of a run."""
    differing = [
        name for i, name in enumerate(COMPARABLE) if len({other[i] for other in others}) > 1 and name != "sigmas"
    ]
    return ", ".join(f"{name} {protocol[COMPARABLE.index(name)]}" for name in differing) or "other noise levels"


def _number(cell: str) -> str:
    """To five digits, where it is a number with a point."""
    try:
        return f"{float(cell):.5g}" if "." in cell or "e" in cell else cell
    except ValueError:
        return cell
