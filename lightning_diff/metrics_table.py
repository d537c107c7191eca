"""metrics.csv: every number of a run in one tidy table with a fixed header, so that rows are only ever appended."""

import csv
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from .atomic import replacing
from .errors import UserError

HEADER = ("step", "images", "metric", "value", "n", "seed", "solver", "steps", "nfe", "ema", "reference")


class MetricsTable(Logger):
    """A Lightning logger that appends `(step, images, metric, value)` rows; quality figures add the columns of their protocol.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: Path | str):
        super().__init__()
        self.path = Path(path)
        self.images_seen: Callable[[], int] | None = None  # fills the column "images" of metrics that come without

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The recipe is a file of its own."""

    @rank_zero_only
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

    @rank_zero_only
    def log_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows with any columns of the header."""
        is_new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, HEADER, restval="")
            if is_new:
                writer.writeheader()
            for row in rows:
                writer.writerow({name: _cell(value) for name, value in row.items()})

    @rank_zero_only
    def truncate(self, images: int) -> None:
        """Drop what a killed run wrote after the checkpoint it resumes from, half a last line included."""
        if not self.path.exists():
            return
        kept = [row for row in read(self.path) if row["images"] and float(row["images"]) <= images]
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, HEADER)
            writer.writeheader()
            writer.writerows(kept)


def read(path: Path | str) -> list[dict[str, str]]:
    """The rows of a metrics.csv; a last line that a crash cut short is left out."""
    try:
        with Path(path).open(newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames and tuple(rows.fieldnames) != HEADER:
                raise UserError(f"{path}: its columns are not those of a table of metrics; move it away")
            return [row for row in rows if None not in row and None not in row.values()]
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise UserError(f"{path}: is no table of metrics ({error}); move it away") from error


def _cell(value: Any) -> Any:
    return f"{value:.8g}" if isinstance(value, float) else value
