"""The table of compared runs: one row for each experiment and metric, with mean, 95 % interval and number of seeds."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..artifacts.metrics_columns import PROTOCOL
from ..artifacts.metrics_rows import Row
from ..foundation.atomic import replacing
from .compare import HEADER, LOSS, Run
from .compare_groups import Series, mean_and_interval

SPREAD = "variance_spread"
DIFFERENT_LOSSES = "losses"  # in the column "differs"
SEVERAL = "several"  # in a column of the protocol that the runs of a group do not share
COUNTS = ("seeds", "images", "n", "seed", "steps", "generator")  # columns of whole numbers
NUMBERS = ("value", "low", "high", "floor", "nfe", "guidance")  # ... and of others


def table(shown: Sequence[Series]) -> list[Row]:
    """Rows by `HEADER`: the loss at the end, its variance's spread over levels, and each figure of the series' protocol.

    `value` is the mean over seeds, `low` and `high` its 95 % interval, empty for one seed; `differs` says in what a figure's
    protocol is another than the first one's.
    """
    rows: list[Row] = []
    for each in shown:
        runs, differs = each.group.runs, DIFFERENT_LOSSES if each.losses_differ else ""
        shared = dict.fromkeys(HEADER, "") | {"run": each.label.rstrip("*"), "images": str(each.group.images)}
        if trained := [row for run in runs if (row := run.last(LOSS)) is not None]:
            images = {"images": trained[0]["images"]}
            rows.append(
                shared | images | {"metric": LOSS, "differs": differs} | _values([row["value"] for row in trained])
            )
        if spreads := [repr(float(run.noise.variance_spread())) for run in runs if run.noise is not None]:
            rows.append(shared | {"metric": SPREAD} | _values(spreads))
        rows += [shared | row for row in _figures(each)]
    return rows


def _figures(each: Series) -> Iterator[Row]:
    figures = {} if each.protocol is None else each.group.evaluations().get(each.protocol, {})
    for metric, found in figures.items():
        owners = {run.name: run for run in each.group.runs}
        floors = [floor for run in owners.values() for row in found if (floor := run.floor(row))]
        protocol = {name: found[0][name] if len({row[name] for row in found}) == 1 else SEVERAL for name in PROTOCOL}
        yield {
            "images": found[0]["images"],
            "metric": metric,
            "floor": floors[0] if floors else "",
            "differs": ", ".join(each.figures_differ),
            **protocol,
            **_values([row["value"] for row in found]),
        }


def _values(texts: Sequence[str]) -> Row:
    if len(texts) == 1:
        return {"value": texts[0], "seeds": "1"}
    mean, half = mean_and_interval([float(text) for text in texts])
    values = {"value": repr(mean), "seeds": str(len(texts))}
    return values if half is None else values | {"low": repr(mean - half), "high": repr(mean + half)}


def as_text(shown: Sequence[Series], rows: Sequence[Row]) -> str:
    """One line for each metric, one column for each series, the floor beside them; a * marks what does not compare."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    names = [each.label.rstrip("*") for each in shown]
    cells = [["", *map(_heading, shown), "floor"]]
    for metric in metrics:
        here = {row["run"]: row for row in rows if row["metric"] == metric}
        seeds = [len(each.group.runs) for each in shown]
        floors = list(dict.fromkeys(_short(row["floor"]) for row in here.values() if row["floor"]))
        cells.append(
            [metric, *(_cell(here.get(name), n) for name, n in zip(names, seeds, strict=True)), " to ".join(floors)]
        )
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    widths = [max(widths[0], 22), *(max(width, 9) for width in widths[1:])]
    lines = [
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def facts(row: Row) -> dict[str, object]:
    """A row of `table` with its numbers as numbers, its differences as a list, and None where the table has nothing."""
    found: dict[str, object] = {name: text or None for name, text in row.items()}
    found |= {name: float(row[name]) for name in NUMBERS if row[name] not in ("", SEVERAL)}
    found |= {name: _whole(row[name]) for name in COUNTS if row[name] not in ("", SEVERAL)}
    return found | {"differs": row["differs"].split(", ") if row["differs"] else []}


def _whole(text: str) -> int:
    """A whole number, of any size; older tables have some with a point."""
    return int(text) if text.isdigit() else int(float(text))


def runs_of(shown: Sequence[Series]) -> list[str]:
    """For each group of several seeds, which runs it is made of."""
    groups = list({id(each.group): each.group for each in shown}.values())
    return [
        f"{group.name}: {len(group.runs)} seeds, mean ± 95 % interval: {', '.join(map(_with_seed, group.runs))}"
        for group in groups
        if len(group.runs) > 1
    ]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)


def _heading(each: Series) -> str:
    n = len(each.group.runs)
    return each.label if n == 1 else f"{each.label} (n={n})"


def _with_seed(run: Run) -> str:
    return f"{run.name} (seed {run.seed})"


def _cell(row: Row | None, seeds: int) -> str:
    if row is None:
        return "-"
    value = _short(row["value"])
    if row["low"]:
        value += f" ± {(float(row['high']) - float(row['low'])) / 2:.2g}"
    value += "*" if row["differs"] else ""
    return (
        value if row["seeds"] == str(seeds) else f"{value} (n={row['seeds']})"
    )  # what not every seed was measured for


def _short(value: str) -> str:
    number = float(value) if value else math.nan
    return f"{number:.4g}"
