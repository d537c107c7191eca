"""What `lightning-diff data inspect` shows of images: a table, and a picture of some."""

import sys
from pathlib import Path

from ..artifacts.pictures import save_grid
from ..data.inspection import SAMPLES, Inspection

MOST = 12  # sizes, classes and broken files that are listed one by one


def print_table(found: Inspection) -> None:
    """On stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows(found):
        table.add_row(name, Text(text))  # as it is: names of files are no markup
    Console(file=sys.stdout, highlight=False).print(Text(found.path), table)


def rows(found: Inspection) -> list[tuple[str, str]]:
    """Name and text of each row."""
    colours = "grey" if found.channels == 1 else "RGB"
    sizes = [f"{width}x{height}: {n:,}" for (width, height), n in found.sizes]
    classes = [f"{name}: {n:,}" for name, n in found.classes]
    broken = [f"{name} ({fault})" for name, fault in found.broken]
    told = [("images", f"{found.count:,}, {colours}")]
    told += _listed("sizes", sizes)
    told += _listed("classes", classes) if classes else [("classes", "none")]
    if classes:
        told.append(("labels by", found.labels))
    told += _listed("broken", broken)
    told += [("remark", note) for note in found.notes]
    if found.count:
        told += [("std", f"{found.std:.6f}"), ("sigma_data", f"{found.sigma_data:g}")]
    if len(found.sizes) > 1:
        told.append(("to train", "set data.size, and data.resize to centre_crop, random_crop, pad or stretch"))
    return told


def draw(found: Inspection, path: Path) -> None:
    """The picture of the samples, a row for each class where there are few."""
    assert found.samples is not None
    columns = len(found.samples) // len(found.rows) if found.rows else round(SAMPLES**0.5)
    save_grid(path, found.samples.clamp(-1, 1), min(columns, len(found.samples)), row_names=found.rows)


def _listed(name: str, texts: list[str]) -> list[tuple[str, str]]:
    """How many, and the first ones, a row each."""
    if len(texts) <= 1:
        return [(name, text) for text in texts]
    more = [("", f"... and {len(texts) - MOST:,} more")] if len(texts) > MOST else []
    return [(name, f"{len(texts):,}"), *(("", text) for text in texts[:MOST]), *more]
