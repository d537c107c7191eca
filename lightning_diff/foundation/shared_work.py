"""Files of rows that one process fills or several together, block by block, and that a later start goes on with after a kill.

    NAME.partial/work.json   what is being made; a folder of something else is begun anew
    NAME.partial/made/FILE   of its final size, written in place
    NAME.partial/done/...    of each process a file, in it a line for each block whose bytes are written: number, crc32, note
    NAME.lock                whose bytes are locked: by who begins and ends, and for each block by who fills it
    NAME                     what was made, once it is whole

A block counts when its line is there, and after a kill when its bytes have that crc32, too, so that a machine may lose power. The
bytes of a block depend on its rows alone: however the work was shared and interrupted, NAME is the same. Where there are no locks,
processes do the same blocks twice.
"""

import hashlib
import json
import os
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from . import stopping
from .atomic import delete, move_into_place, replacing
from .file_locks import FileLocks
from .first_process import is_first_process
from .formats import refuse_newer
from .progress import stage
from .row_files import Block, Table, blocks_of, check, write

FORMAT = 1  # of the partial folder
ALONE, SPEAKER, PRESENT, FIRST_BLOCK = 0, 1, 2, 16  # bytes of the lock

Note = Any  # JSON that a block's writer keeps beside it


class Work:
    """The making of something, as a context in which this process takes part in it.

    Args:
        target: a file or a folder that is to be made.
        tables: its files of rows; `block` of an interrupted start stays.
        key: what the rows are of: a folder left of something else is deleted.
        is_whole: whether the target is there and in order; asked while no other process begins or ends.

    Attributes:
        is_needed: whether anything is to be done.
        done: number of each block that is written -> its crc32 and note.
        rows_done: rows of those blocks.
        speaks: whether this process is the one that says how far they all are.
    """

    def __init__(self, target: Path, tables: Sequence[Table], key: str, is_whole: Callable[[], bool]):
        self.target, self.tables, self.key, self._is_whole = target, list(tables), key, is_whole
        self.folder = partial_of(target)
        self.done: dict[int, tuple[int, Note]] = {}
        self.rows_done = 0
        self.is_needed = self.speaks = self._is_over = False
        self._read: dict[Path, int] = {}  # bytes of each file of lines that were read
        self._files: list[BinaryIO] = []

    def __enter__(self) -> "Work":
        self.target.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._locks = stack.enter_context(FileLocks(self.target.with_name(f"{self.target.name}.lock")))
            with self._locks.held(ALONE):
                self._join(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @cached_property
    def blocks(self) -> list[Block]:
        return blocks_of(self.tables)

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def missing(self) -> Iterator[Block]:
        """Blocks for this process to write with `put`, until all are written, by whichever process.

        The last ones may be in other processes' hands: it waits, and takes over those of one that died.
        """
        while left := [] if self._is_over else [block for block in self.blocks if block.number not in self.done]:
            for start in _helping:
                start()
            before = len(self.done)
            for block in left:
                yield from self._once(block, wait=False)
            if len(self.done) == before:
                yield from self._once(left[0], wait=True)

    def put(self, block: Block, columns: Sequence[bytes], note: Note = None) -> None:
        """Write a block.

        Args:
            block: from `missing`.
            columns: the bytes of its rows in each column.
            note: what to keep of it until all is done.

        Raises:
            OSError: the disk is full, or what else prevents it; what was written before stays.
        """
        file, found = self._files[block.table], 0
        for (start, size), part in zip(self.tables[block.table].places(block), columns, strict=True):
            assert len(part) == size
            write(file, start, part)
            found = zlib.crc32(part, found)
        write(self._lines, None, f"{json.dumps([block.number, found, note])}\n".encode())
        self._count(block.number, found, note)

    def publish(self, finish: Callable[[Path], None], name: str = "") -> None:
        """Give the target its place, unless another process has done so.

        Args:
            finish: gets the folder of the files, and adds what is missing.
            name: of the file that becomes the target; none where the folder does.
        """
        with self._locks.held(ALONE):
            if self._is_over or not self._is_there:
                return
            self._close()
            finish(self.folder / "made")
            move_into_place(self.folder / "made" / name, self.target)
            delete(self.folder)

    def checks(self) -> list[int]:
        """crc32 of each block, once all are done."""
        return [self.done[block.number][0] for block in self.blocks]

    def notes(self, table: int) -> list[Note]:
        """Of the blocks of a table, in order, once all are done."""
        return [self.done[block.number][1] for block in self.blocks if block.table == table]

    def _join(self, stack: ExitStack) -> None:
        is_first = self._locks.take(PRESENT)
        self._locks.take(PRESENT, together=True)
        if self._is_whole():
            if is_first:
                delete(self.folder)  # of a process that was killed at the last moment
            return
        self.is_needed, self.speaks = True, is_first_process() and self._locks.take(SPEAKER)
        stack.callback(self._close)
        is_new = not self._is_begun()
        if is_new:
            self._begin()
        for table in self.tables:
            self._files.append((self.folder / "made" / table.file).open("r+b", buffering=0))
        self._look()
        if is_first and not is_new:
            self._keep_what_is_right()
        own = f"{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        self._lines: BinaryIO = (self.folder / "done" / own).open("ab", buffering=0)
        self._files.append(self._lines)

    def _close(self) -> None:
        while self._files:
            self._files.pop().close()

    def _facts(self, tables: Sequence[Table]) -> dict[str, Any]:
        told = [
            asdict(table) | {"header": hashlib.sha256(table.header).hexdigest(), "widths": list(table.widths)}
            for table in tables
        ]
        return {"format": FORMAT, "key": self.key, "tables": told}

    @property
    def _is_there(self) -> bool:
        return (self.folder / "work.json").exists()

    def _is_begun(self) -> bool:
        """Whether an earlier start is to be gone on with; its blocks become this one's. UserError for one of a newer version."""
        try:
            there, made = json.loads((self.folder / "work.json").read_bytes()), self.folder / "made"
            refuse_newer(self.folder, there["format"], FORMAT)
            blocks = [int(table["block"]) for table in there["tables"]]
            tables = [replace(table, block=block) for table, block in zip(self.tables, blocks, strict=True)]
            if there != self._facts(tables) or min(blocks) < 1:
                return False
            if any((made / table.file).stat().st_size != table.size for table in tables):
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self.tables = tables
        return True

    def _begin(self) -> None:
        delete(self.target)
        delete(self.folder)
        for name in ("made", "done"):
            (self.folder / name).mkdir(parents=True)
        for table in self.tables:
            with (self.folder / "made" / table.file).open("wb") as file:
                file.write(table.header)
                file.truncate(table.size)
        with replacing(self.folder / "work.json") as temporary:
            temporary.write_text(json.dumps(self._facts(self.tables)))

    def _once(self, block: Block, *, wait: bool) -> Iterator[Block]:
        """Yield a block if it is this process's to write."""
        byte = FIRST_BLOCK + block.number
        if wait:
            self._locks.wait(byte)
        elif block.number in self.done or not self._locks.take(byte):
            return
        try:
            self._look()
            if block.number not in self.done and not self._is_over:
                stopping.check()
                yield block
        finally:
            self._locks.release(byte)

    def _look(self) -> None:
        """At what others have written since."""
        with suppress(FileNotFoundError):
            for path in (self.folder / "done").iterdir():
                self._take_in(path)
        self._is_over = not self._is_there  # published by another process

    def _take_in(self, path: Path) -> None:
        """Lines of a process that were not read before; one without an end is not written yet, or never will be."""
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        for line in whole.splitlines():
            with suppress(ValueError, TypeError):
                number, found, note = json.loads(line)
                if 0 <= number < len(self.blocks):
                    self._count(number, found, note)

    def _count(self, number: int, found: int, note: Note) -> None:
        if number not in self.done:
            self.rows_done += self.blocks[number].rows
        self.done[number] = (found, note)

    def _keep_what_is_right(self) -> None:
        """Of blocks that an interrupted start left: those whose bytes are there, in one file of lines."""
        with stage("checking", self.rows_done, "row", shown=self.speaks and self.rows_done > 0) as bar:
            for number in sorted(self.done):
                stopping.check()
                block = self.blocks[number]
                if check(self._files[block.table], self.tables[block.table], block) != self.done[number][0]:
                    del self.done[number]
                    self.rows_done -= block.rows
                bar.advance(block.rows)
        kept = self.folder / "done" / "kept"
        with replacing(kept) as temporary:
            temporary.write_text("".join(f"{json.dumps([each, *self.done[each]])}\n" for each in sorted(self.done)))
        for path in kept.parent.iterdir():
            if path != kept:
                path.unlink()
        self._read = {kept: kept.stat().st_size}


_helping: list[Callable[[], object]] = []


@contextmanager
def helped_by(start: Callable[[], object]) -> Iterator[None]:
    """While the block runs, `start` is called where there is work to be done, perhaps more than once."""
    _helping.append(start)
    try:
        yield
    finally:
        _helping.remove(start)


def partial_of(target: Path) -> Path:
    """The folder in which a target is made."""
    return target.with_name(f"{target.name}.partial")


def bytes_left(target: Path, size: int) -> int:
    """Of so many for a target, those that the disk has not given to an interrupted start yet."""
    made = partial_of(target) / "made"
    files = [file.stat() for file in made.iterdir()] if made.is_dir() else []
    return max(size - sum(min(file.st_size, 512 * getattr(file, "st_blocks", 0)) for file in files), 0)
