"""The rows of a metrics.csv, read without Lightning, whose logger writes them (`metrics_table`)."""

import csv
from pathlib import Path

from ..foundation.errors import UserError
from .metrics_columns import HEADER, VERSION_0_1

Row = dict[str, str]


def read(path: Path | str) -> list[Row]:
    """The rows of a metrics.csv; lines that a crash cut short are left out, columns that version 0.1 did not have are empty."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            columns = {*(rows.fieldnames or ())}
            if columns > {*HEADER}:
                more = ", ".join(sorted(columns - {*HEADER}))
                raise UserError(
                    f"{path}: was written by a newer version of lightning_diff (columns {more}); update lightning_diff"
                )
            if rows.fieldnames and tuple(rows.fieldnames) not in (HEADER, VERSION_0_1):
                raise UserError(f"{path}: its columns are not those of a table of metrics; move it away")
            blank = dict.fromkeys(HEADER, "")
            return [blank | row for row in rows if None not in row and None not in row.values()]
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise UserError(f"{path}: is no table of metrics ({error}); move it away") from error
