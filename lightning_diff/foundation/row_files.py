"""Files of rows, column after column, that are written and checked block by block."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

LOOKED_AT, LOOKED_AT_BYTES = (
    16,
    2**26,
)  # of finished files at most, the last block in any case, to tell whether they are damaged


@dataclass(frozen=True)
class Block:
    """Some rows of a table.

    Args:
        number: among the blocks of all tables.
        table: number of its table.
        first: of its rows.
        rows: how many.
    """

    number: int
    table: int
    first: int
    rows: int


@dataclass(frozen=True)
class Table:
    """A file of rows: a header, then column after column.

    Args:
        file: its name.
        header: what comes first.
        widths: of each column, bytes of a row.
        rows: how many, >= 1.
        block: rows that are written at a time.
    """

    file: str
    header: bytes
    widths: tuple[int, ...]
    rows: int
    block: int

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.header) + self.rows * sum(self.widths)

    def places(self, block: Block) -> list[tuple[int, int]]:
        """First byte and number of bytes of a block in each column."""
        starts = accumulate((self.rows * width for width in self.widths), initial=len(self.header))
        return [
            (start + block.first * width, block.rows * width) for start, width in zip(starts, self.widths, strict=False)
        ]


def blocks_of(tables: Sequence[Table]) -> list[Block]:
    """Of all tables, in order."""
    cuts = [
        (number, first, min(table.block, table.rows - first))
        for number, table in enumerate(tables)
        for first in range(0, table.rows, table.block)
    ]
    return [Block(i, *cut) for i, cut in enumerate(cuts)]


def damage(folder: Path, tables: Sequence[Table], checks: Sequence[int]) -> str:
    """What is wrong with finished files, in words, by size and by some of their blocks; nothing if nothing is.

    Args:
        folder: of the files.
        tables: that they are.
        checks: crc32 of each block; none for files of an older version, of which the size alone is looked at.

    Raises:
        OSError: one is missing or cannot be read.
    """
    if short := [table for table in tables if (folder / table.file).stat().st_size != table.size]:
        return f"{short[0].file} is not {short[0].size:,} bytes long"
    blocks = blocks_of(tables)
    if not checks:
        return ""
    if len(checks) != len(blocks):
        return f"has {len(checks):,} checksums for {len(blocks):,} blocks"
    largest = max(table.block * sum(table.widths) for table in tables)
    count = max(min(LOOKED_AT, LOOKED_AT_BYTES // largest), 1)
    for number in np.unique(np.linspace(len(blocks) - 1, 0, count).astype(int)).tolist():
        table = tables[blocks[number].table]
        with (folder / table.file).open("rb") as file:
            if check(file, table, blocks[number]) != checks[number]:
                return f"{table.file} holds other bytes than were written"
    return ""


def check(file: BinaryIO, table: Table, block: Block) -> int:
    """crc32 of a block's bytes."""
    found = 0
    for start, size in table.places(block):
        file.seek(start)
        found = zlib.crc32(file.read(size), found)
    return found


def write(file: BinaryIO, start: int | None, content: bytes) -> None:
    """All of it, from this byte of an unbuffered file, None for where it is: a write may stop short where a disk is nearly full."""
    if start is not None:
        file.seek(start)
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
