"""What is going on, on one terminal: a bar for each stage, and printed lines above the bars.

On a terminal rich draws all bars of the process together; while one is there, whatever is printed appears above them. In a notebook
the bars are one output of the cell, which is replaced as they move, and what is printed stays the cell's. Elsewhere a stage is
silent, or says how far it is in a line now and then if it was asked to.

Nothing is drawn from a thread: a bar moves when its stage says so. A program that forks meanwhile, for data workers, leaves no lock
behind.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

T = TypeVar("T")

REDRAW = 0.2  # seconds between two pictures of a bar
LINES = 20.0  # seconds between two lines where there is no terminal
CELL_BAR = 30  # characters of a bar in a notebook


class Stage:
    """How far one piece of work is.

    Args:
        name: what is being done, one or two words: "sampling".
        total: units until it is done.
        unit: what is counted, in the singular: "image".
        start: units done before.
    """

    def __init__(self, name: str, total: int, unit: str, start: int = 0):
        self.name, self.total, self.unit, self.done, self.note = name, total, unit, start, ""
        self._start, self._began = start, time.monotonic()
        self._stopped: float | None = None

    def advance(self, count: int = 1) -> None:
        """Count units that are done."""
        self.reach(self.done + count)

    def reach(self, done: int, note: str | None = None) -> None:
        """Say how many are done, and what else is worth a word."""
        self.done, self.note = done, self.note if note is None else note
        self.draw()

    def stop(self) -> None:
        """Keep time and rate as they are: what comes after is not this work."""
        self._stopped = self._stopped or time.monotonic()
        self.draw(now=True)

    def draw(self, now: bool = False) -> None:
        """Show it, if it is time or has to be now."""

    @property
    def seconds(self) -> float:
        """Since it began, until it was stopped."""
        return (self._stopped or time.monotonic()) - self._began

    @property
    def rate(self) -> float:
        """Units a second."""
        return (self.done - self._start) / max(self.seconds, 1e-9)

    def text(self) -> str:
        """`1.2k/9.6k [00:12<00:40, 310 image/s, loss 0.41]`."""
        left = (self.total - self.done) / self.rate if self.rate > 0 else None
        numbers = f"{_short(self.done)}/{_short(self.total)}"
        parts = [f"{_clock(self.seconds)}<{_clock(left)}", f"{_short(self.rate)} {self.unit}/s", self.note]
        return f"{numbers} [{', '.join(part for part in parts if part)}]"


@contextmanager
def stage(
    name: str, total: int, unit: str, *, shown: bool = True, keep: bool = False, lines: bool = False, start: int = 0
) -> Iterator[Stage]:
    """A piece of work and how far it is, for as long as the block runs.

    Args:
        name, total, unit, start: see `Stage`.
        shown: whether it is shown at all.
        keep: leave the bar's last state on the terminal.
        lines: without a terminal, print a line every 20 seconds.
    """
    if shown and (place := _place()) is not None:
        made: Stage = _Bar(place, name, total, unit, start, keep)
    elif shown and lines:
        made = _Lines(name, total, unit, start)
    else:
        made = Stage(name, total, unit, start)
    try:
        yield made
    finally:
        made.stop()
        if isinstance(made, _Bar):
            made.close()


def each(items: Iterable[T], name: str, total: int, unit: str, *, shown: bool = True) -> Iterator[T]:
    """Go through items as a stage of its own."""
    with stage(name, total, unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.advance()


class _Lines(Stage):
    """On stderr, for log files."""

    def __init__(self, name: str, total: int, unit: str, start: int = 0):
        super().__init__(name, total, unit, start)
        self._said = time.monotonic()
        self._last = ""

    def draw(self, now: bool = False) -> None:
        if self.done == self._start or not (now or time.monotonic() - self._said > LINES):
            return
        self._said = time.monotonic()
        if (text := f"{self.name} {self.text()}") != self._last:
            print(text, file=sys.stderr, flush=True)
        self._last = text


class _Bar(Stage):
    """In the place that all bars share."""

    def __init__(self, place: "_Place", name: str, total: int, unit: str, start: int, keep: bool):
        super().__init__(name, total, unit, start)
        self._place, self.keep, self._drawn = place, keep, 0.0
        place.add(self)

    def draw(self, now: bool = False) -> None:
        if now or time.monotonic() - self._drawn > REDRAW:
            self._drawn = time.monotonic()
            self._place.show(self)

    def close(self) -> None:
        self._place.close(self)


@runtime_checkable
class _Place(Protocol):
    """Where bars are drawn, from the first until the last one is closed."""

    def add(self, bar: _Bar) -> None: ...
    def show(self, bar: _Bar) -> None: ...
    def close(self, bar: _Bar) -> None: ...


class _Screen:
    """rich's live display."""

    def __init__(self, console: "Console"):
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self.tasks: dict[_Bar, TaskID] = {}
        self.progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            auto_refresh=False,
            expand=True,
            redirect_stdout=sys.stdout.isatty(),  # not what goes into a file or a pipe
        )
        self.progress.start()

    def add(self, bar: _Bar) -> None:
        self.tasks[bar] = self.progress.add_task(bar.name, total=max(bar.total, 1), completed=bar.done, text=bar.text())

    def show(self, bar: _Bar) -> None:
        self.progress.update(self.tasks[bar], completed=bar.done, total=max(bar.total, 1), text=bar.text())
        self.progress.refresh()

    def close(self, bar: _Bar) -> None:
        task = self.tasks.pop(bar)
        if not bar.keep:
            self.progress.remove_task(task)
            self.progress.refresh()
        if not self.tasks:
            _forget(self)
            self.progress.stop()


class _CellOutput:
    """One output of a notebook's cell, replaced as bars move; the last bar's last state stays in it."""

    def __init__(self) -> None:
        from IPython.display import DisplayHandle

        self.bars: dict[_Bar, bool] = {}  # whether it is open
        self.handle = DisplayHandle()
        self.is_shown = False

    def add(self, bar: _Bar) -> None:
        self.bars = {other: is_open for other, is_open in self.bars.items() if is_open or other.keep}
        self.bars[bar] = True
        self.show(bar)

    def show(self, bar: _Bar) -> None:
        wide = max(len(each.name) for each in self.bars)
        lines = []
        for each in self.bars:
            share = min(each.done / max(each.total, 1), 1.0)
            drawn = "━" * round(CELL_BAR * share)
            lines.append(f"{each.name:{wide}} {drawn:{CELL_BAR}} {share:4.0%} {each.text()}")
        (self.handle.update if self.is_shown else self.handle.display)({"text/plain": "\n".join(lines)}, raw=True)
        self.is_shown = True

    def close(self, bar: _Bar) -> None:
        self.bars[bar] = False
        if not any(self.bars.values()):
            _forget(self)
        elif not bar.keep:
            del self.bars[bar]
            self.show(bar)


_open: list[_Place] = []  # the place that has bars, if one has


def _place() -> _Place | None:
    """Where bars are drawn: stderr if it is a terminal, or a notebook's cell."""
    if not _open:
        if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
            return None
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_jupyter:
            _open.append(_CellOutput())
        elif console.is_terminal:
            _open.append(_Screen(console))
    return _open[0] if _open else None


def _forget(place: _Place) -> None:
    if place in _open:
        _open.remove(place)


def _short(number: int | float) -> str:
    """Three digits: 512, 3.14k, 200M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:.3g}"


def _clock(seconds: int | float | None) -> str:
    """00:12, 1:02:03, or 2 days, 3:04:05; ? where it is not known."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    return f"{whole // 60:02d}:{whole % 60:02d}" if whole < 3600 else str(timedelta(seconds=whole))
