"""Images that are decoded once: kept in a file of the cache folder, which every process maps, and every later start and dry run.

    CACHE/decoded/KEY/facts.json, train, train.labels.npy, ...       KEY: of the path, the options and the format

An entry is whole or not there. One process decodes, with the entry's lock in its hand; others wait for it and read.
"""

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Literal, TypeAlias

import PIL

from ...foundation import caches, stopping
from ...foundation.atomic import delete, replacing_folder
from ...foundation.errors import UserError
from ..file_state import FileState, file_state
from ..pixels import Pixels
from . import entry
from .entry import FORMAT, Sets
from .stores import InFile, InMemory, MakeStore, Store

Cache = Literal["auto", "always", "never"]
# Bytes, decoded or not, of a set that "auto" keeps in a file: of smaller ones a start decodes in a second or two.
LEAST = 16 * 2**20
LIMIT_GIB = "LIGHTNING_DIFF_CACHE_GIB"  # the variable that says how much all entries together may take
LIMIT = 200.0  # GiB, where it says nothing
SPARE = 2**28  # bytes that stay free on the disk

Decode: TypeAlias = Callable[[Callable[[str], MakeStore]], Sets]  # sets, of what stores a split's pixels


class _IsThereError(Exception):
    """Another process has written the entry meanwhile."""


class DecodedCache:
    """The entry of one data set.

    Args:
        name: of the data set, for messages.
        options: all that the pixels, labels and remarks depend on beside the files.
        paths: files and folders that are read.
        mode: "always" keeps any set, "never" none, "auto" those that are worth it.
    """

    def __init__(self, name: str, options: str, paths: Sequence[Path], mode: Cache):
        self.name, self.paths, self.mode = name, paths, mode
        key = hashlib.sha256(
            f"{FORMAT} {PIL.__version__} {[os.path.abspath(path) for path in paths]} {options}".encode()
        )
        self.key = key.hexdigest()[:24]
        self.room: Path | None = None
        if (wanted := caches.wanted()) is not None:
            self.room = wanted / "decoded"

    def load(self, decode: Decode) -> Sets:
        """The examples, mapped if the cache has them or is to have them, else in memory.

        Args:
            decode: reads the files.

        Raises:
            UserError: as `decode` does.
        """
        state = None if self.mode == "never" or self.room is None else self._state()
        if state is None or self.room is None:
            if self.mode == "always" and self.room is None:
                self._say(f"no home folder is known: the images are kept in memory; set {caches.OWN} to a folder")
            return decode(lambda split: InMemory)
        sets, wrong = entry.read(self.room / self.key, state.digest)
        if sets is not None:
            return sets
        if wrong:
            self._say(f"the decoded copy {self.room / self.key} {wrong}: decoding again")
        try:
            with _Writing(self, state, self.room / self.key) as writing:
                sets = writing.finish(decode(writing.store))
        except _IsThereError:
            sets = None
        except OSError as error:
            self._say(
                f"{self.room} cannot be written ({error.strerror or error}): the images are kept in the memory of each process"
            )
            return decode(lambda split: InMemory)
        if sets is None:  # written, by this process or by another one
            sets, _ = entry.read(self.room / self.key, state.digest)
        return sets if sets is not None else decode(lambda split: InMemory)

    def _state(self) -> FileState | None:
        try:
            return file_state(self.paths)
        except OSError:  # `decode` finds words for it
            return None

    def _say(self, text: str) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{self.name}: {text}", file=sys.stderr)


class _Writing(ExitStack):
    """An entry that may come to be, once it is known how much there is to keep.

    Args:
        cache: whose.
        state: of the files.
        target: the entry.
    """

    def __init__(self, cache: DecodedCache, state: FileState, target: Path):
        super().__init__()
        self.cache, self.state, self.target = cache, state, target
        self.folder: Path | None = None  # where it is written, if it is

    def store(self, split: str) -> MakeStore:
        """Of the images of a split; those of training come first, and decide for all."""

        def make(first: Pixels, n: int, ragged: bool) -> Store:
            size = first.nbytes * n
            if split == entry.SPLITS[0]:
                if self.cache.mode == "auto" and max(size, self.state.bytes) < LEAST:
                    return InMemory(first, n, ragged)
                self._begin(size)
            if self.folder is None:
                return InMemory(first, n, ragged)
            about = "about " if ragged else ""
            print(
                f"{self.cache.name}: {n:,} images are decoded once, into {about}{size / 2**20:,.0f} MiB of {self.target} "
                f"({split}; cache=never keeps them in memory)",
                file=sys.stderr,
            )
            return self.enter_context(closing(InFile(first, n, ragged, self.folder / split)))

        return make

    def finish(self, sets: Sets) -> Sets | None:
        """The sets, if they lie in memory; None if they lie in the entry, which is whole when this ends well."""
        if self.folder is None:
            return sets
        entry.write(self.folder, sets, self.state.digest)
        return None

    def _begin(self, size: int) -> None:
        """Lock the entry, make room for it.

        Raises:
            _IsThereError: it has come to be meanwhile.
            OSError: there can be none.
        """
        room = self.target.parent
        room.mkdir(parents=True, exist_ok=True)
        self._lock()
        if entry.read(self.target, self.state.digest)[0] is not None:
            raise _IsThereError
        for left in room.glob(f".{self.target.name}.*"):  # of processes that were killed, since this one has the lock
            delete(left)
        make_room(room, self.target, size)
        self.folder = self.enter_context(replacing_folder(self.target))

    def _lock(self) -> None:
        from filelock import FileLock, Timeout  # which only writing needs

        lock, is_said = FileLock(self.target.with_suffix(".lock")), False
        while True:
            try:
                self.enter_context(lock.acquire(timeout=1 if is_said else 0))
                return
            except Timeout:
                stopping.check()
                if not is_said:
                    self.cache._say("waiting for another process that decodes the images")
                is_said = True
            except NotImplementedError as error:
                raise OSError(errno.ENOLCK, "its file system has no locks") from error


def make_room(room: Path, target: Path, size: int) -> None:
    """Delete entries, those that were not used for longest first, until one of this size fits.

    Args:
        room: the folder of all entries.
        target: the entry that is to be written, which goes if it is there.
        size: in bytes.

    Raises:
        OSError: it does not fit on the disk.
    """
    try:
        limit = float(named := os.environ.get(LIMIT_GIB) or LIMIT) * 2**30
    except ValueError:
        raise UserError(f"{LIMIT_GIB}={named}: is no number of GiB") from None
    with suppress(FileNotFoundError):
        delete(target)
    entries = [
        (_used(folder), folder) for folder in room.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    ]
    sizes = {folder: entry.size_of(folder) for _, folder in entries}
    for _, folder in sorted(entries):
        is_much = size + sum(sizes.values()) > limit
        if not is_much and shutil.disk_usage(room).free > size + SPARE:
            break
        why = f"more than {limit / 2**30:g} GiB ({LIMIT_GIB})" if is_much else "more than the disk holds"
        print(
            f"{folder}: decoded images, {sizes.pop(folder) / 2**20:,.0f} MiB, deleted: with new ones {why}",
            file=sys.stderr,
        )
        delete(folder)
    if shutil.disk_usage(room).free <= size + SPARE:
        raise OSError(errno.ENOSPC, f"no room for {size / 2**20:,.0f} MiB")


def _used(folder: Path) -> float:
    try:
        return (folder / entry.FACTS).stat().st_mtime
    except OSError:
        return 0.0
