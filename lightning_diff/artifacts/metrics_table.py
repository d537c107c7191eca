"""metrics.csv: every number of a run in one tidy table with a fixed header."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger

from ..foundation.atomic import replacing
from ..foundation.processes import is_first_process
from .metrics_columns import HEADER, LATER, VERSION_0_1
from .metrics_rows import Row, read


class MetricsTable(Logger):
    """A Lightning logger that appends `(step, images, metric, value)` rows; quality figures add the columns of their protocol.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: Path | str):
        super().__init__()
        self.path = Path(path)
        self.images_seen: Callable[[], int] | None = None  # fills the column "images" of metrics that come without
        self._newest = ("", 0)  # the images of the last rows, and how many of them there are
        self._has_all_columns = False  # once a table of version 0.1 has those of this one
        self._ahead: list[tuple[int, Row]] = []  # place in the file and row, of those that training may write again

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """The recipe is a file of its own."""

    def log_metrics(self, metrics: Mapping[str, float | int], step: int | None = None) -> None:
        """One row for each metric; the entry "images" fills that column of every row."""
        if "epoch" in metrics and step is not None:
            step += 1  # from a module's or callback's self.log, for which Lightning counts the first step as 0
        images = metrics.get("images", self.images_seen() if self.images_seen else "")
        self.log_rows(
            [
                {"step": step, "images": images, "metric": name, "value": value}
                for name, value in metrics.items()
                if name not in ("images", "epoch")
            ]
        )

    def log_rows(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Append rows with any columns of the header; a row that stands there from before an interruption is replaced.

        The first process does so, for all.
        """
        if not is_first_process():
            return
        if not self._has_all_columns:
            self._add_columns()
        new = []
        for row in rows:
            cells = dict.fromkeys(HEADER, "") | {name: _cell(value) for name, value in row.items()}
            images, count = self._newest
            self._newest = (cells["images"], count + 1 if images == cells["images"] else 1)
            if not self._is_there(cells):
                new.append(cells)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, HEADER)
        with self.path.open("a+b") as file:
            if not file.tell():
                writer.writeheader()
            elif file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
                text.write("\r\n")  # after a line that a crash cut short
            writer.writerows(new)
            file.write(text.getvalue().encode())  # at once, so that a crash cuts at most one line

    def rows_at(self, images: int) -> int:
        """Number of rows that this training has written at this many images: a checkpoint keeps it for `go_back`."""
        return self._newest[1] if self._newest[0] == str(images) else 0

    def go_back(self, images: int, rows: int) -> None:
        """Continue the table from a checkpoint at which `rows_at(images)` was `rows`.

        Rows of more images go, and so does half a last line. Further rows of these images stay, for they may be somebody's own
        (`lightning-diff evaluate`); those that training writes again take their old places.
        """
        self._newest, self._ahead = (str(images), rows), []
        if not self.path.exists() or not is_first_process():
            return
        kept: list[Row] = []
        early = set()  # rows without images, from before the start of training: each start writes them
        here = 0
        for row in read(self.path):
            if not row["images"]:
                if _key(row) in early:
                    continue
                early.add(_key(row))
            elif float(row["images"]) > images:
                continue
            elif float(row["images"]) == images:
                here += 1
                if here > rows:
                    self._ahead.append((len(kept), row))
            kept.append(row)
        self._rewrite(kept)

    def _is_there(self, cells: Row) -> bool:
        """Whether an interrupted attempt wrote this row; its value becomes the new one."""
        found = next((i for i, (_, row) in enumerate(self._ahead) if _is_same(row, cells)), None)
        if found is None:
            return False
        place, row = self._ahead.pop(found)
        if row["value"] != cells["value"]:
            rows = read(self.path)
            rows[place] = cells
            self._rewrite(rows)
        return True

    def _add_columns(self) -> None:
        if self.path.exists() and _columns(self.path) == VERSION_0_1:
            self._rewrite(read(self.path))
        self._has_all_columns = True

    def _rewrite(self, rows: Sequence[Row]) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HEADER)
            writer.writeheader()
            writer.writerows(rows)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _columns(path: Path) -> tuple[str, ...]:
    with path.open(newline="", errors="replace") as file:
        return tuple(next(csv.reader(file), ()))


def _is_same(row: Row, cells: Row) -> bool:
    """Whether both are of one figure; what a row of version 0.1 does not say may be anything."""
    known = VERSION_0_1 if not any(row[name] for name in LATER) else HEADER
    return all(row[name] == cells[name] for name in known if name != "value")


def _key(row: Row) -> tuple[str, ...]:
    """All but the value."""
    return tuple(row[name] for name in HEADER if name != "value")
