"""The rows of a metrics.csv, read without Lightning, whose logger writes them (`metrics_table`)."""

import csv
from pathlib import Path

from ..foundation.errors import UserError

HEADER = ("step", "images", "metric", "value", "n", "seed", "solver", "steps", "nfe", "ema", "reference")
Row = dict[str, str]


def read(path: Path | str) -> list[Row]:
    """The rows of a metrics.csv; lines that a crash cut short are left out."""
    try:
        with Path(path).open(newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames and tuple(rows.fieldnames) != HEADER:
                raise UserError(f"{path}: its columns are not those of a table of metrics; move it away")
            return [row for row in rows if None not in row and None not in row.values()]
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise UserError(f"{path}: is no table of metrics ({error}); move it away") from error
