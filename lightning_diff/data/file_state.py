"""What tells that files are still those that were read: names, sizes and times, without their content."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

Key = tuple[int, int]  # device and inode


class FileState(NamedTuple):
    """Of some files and folders.

    Args:
        digest: of the names, sizes and times of modification of every file, in hexadecimal digits.
        bytes: of all of them.
    """

    digest: str
    bytes: int


def file_state(paths: Sequence[Path]) -> FileState:
    """Of these files and all that lies in these folders, links followed; a link to nowhere counts by its name.

    Raises:
        OSError: one is not there, or a folder cannot be read.
    """
    digest, total = hashlib.sha256(), 0
    for path in paths:
        for name, size, time in sorted(_files(path)) if path.is_dir() else [_file(path)]:
            digest.update(f"{name}\0{size} {time}\n".encode("utf-8", "surrogateescape"))
            total += max(size, 0)
    return FileState(digest.hexdigest(), total)


def _file(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return "", found.st_size, found.st_mtime_ns


def _files(root: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of each; a folder that links lead to again is entered once."""
    waiting, seen = [(str(root), "")], set[Key]()
    while waiting:
        folder, prefix = waiting.pop()
        here = os.stat(folder)
        if (key := (here.st_dev, here.st_ino)) in seen:
            continue
        seen.add(key)
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir():
                    yield name, -1, 0
                    waiting.append((entry.path, f"{name}/"))
                    continue
                try:
                    found = entry.stat()
                    yield name, found.st_size, found.st_mtime_ns
                except OSError:
                    yield name, 0, 0
