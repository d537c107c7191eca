"""Plots of schedules: the noise levels of the run's schedule files, and the learned one's figures while it was learned."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...foundation.errors import UserError
from . import curves
from .plots import Line, Plot, lines
from .record import Record

MOST = 12  # schedules of a run, by name


def plots(records: Sequence[Record]) -> list[Plot]:
    """[] for runs without schedules."""
    grids = [line for colour, each in enumerate(records) for line in _grids(each, colour)]
    plot = lines("Noise levels of the schedules", grids, "step (the last one goes to 0)", "noise level σ", markers=True)
    return [*([plot] if plot is not None else []), *curves.schedules([each.run for each in records])]


def _grids(record: Record, colour: int) -> Iterator[Line]:
    for number, path in enumerate(_files(record.folder)):
        from ...artifacts.schedule import load_schedule  # brings torch, which most reports do without

        try:
            found = load_schedule(path)
        except UserError:
            continue  # damaged; `lightning-diff sample --schedule` says how
        levels = found.sigmas[:-1]
        name = f"{record.name}: {found.method} for {found.solver}, {found.steps} steps"
        yield Line(name, list(range(len(levels))), levels, colour + number)


def _files(folder: Path) -> list[Path]:
    own = folder / "schedule.json"
    others = [path for path in sorted((folder / "schedules").glob("*.json")) if not path.name.startswith("monitor_")]
    return [*([own] if own.is_file() else []), *others][:MOST]
