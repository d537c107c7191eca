"""validation.csv: the loss of held-out and of training images at each noise level, one row per level and measurement."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

from ..foundation.atomic import replacing
from ..foundation.errors import UserError

NAME = "validation.csv"


class Level(NamedTuple):
    """One row. NaN where nothing was measured.

    Args:
        images: training images seen.
        log_snr, sigma: of the middle of the bin.
        count: measurements of each kind in it.
        loss, standard_error: of held-out images, unweighted.
        train_loss, train_standard_error: of training images at the same levels with the same noise.
    """

    images: int
    log_snr: float
    sigma: float
    count: int  # type: ignore[assignment]  # tuple.count is not wanted here
    loss: float
    standard_error: float
    train_loss: float
    train_standard_error: float


def write(folder: Path, rows: list[Level]) -> None:
    """All rows of a run, whole or not at all."""
    with replacing(folder / NAME) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Level._fields)
        for row in rows:
            writer.writerow([value if isinstance(value, int) else _cell(value) for value in row])


def read(folder: Path) -> list[Level]:
    """What `write` wrote; [] without a file. UserError for one that is no such table."""
    path = folder / NAME
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != Level._fields:
                raise UserError(
                    f"{path}: is no table of validation losses; its columns should be {', '.join(Level._fields)}"
                )
            return [
                Level(
                    int(row["images"]),
                    float(row["log_snr"]),
                    float(row["sigma"]),
                    int(row["count"]),
                    *(float(row[name] or "nan") for name in Level._fields[4:]),
                )
                for row in reader
            ]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: damaged: {error}") from error


def latest(rows: list[Level]) -> list[Level]:
    """Those of the last measurement, levels in which something was measured."""
    last = max((row.images for row in rows), default=0)
    return [row for row in rows if row.images == last and row.count]


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.8g}"
