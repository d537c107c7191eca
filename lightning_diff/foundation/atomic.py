"""Files that are either whole or not there."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of `replacing`, and of safetensors, which writes `.tmp` and six letters beside its target before it renames.
TEMPORARIES = (".*.tmp", ".*.tmp.*", ".tmp??????")


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, flush it to the disk and rename it over `path`.

    When the block raises, `path` is as it was and the temporary file is gone. The temporary name keeps the suffix, since
    writers such as Pillow choose the format by it. The file gets the permissions of any new file, whatever its writer gives it:
    some, safetensors' among them, make files that only their owner can read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        temporary.touch()  # the system gives it what umask and folder say, which cannot be read without a race
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        with temporary.open("rb+") as file:
            if temporary.stat().st_mode & 0o777 != mode:
                temporary.chmod(mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path | str) -> Iterator[Path]:
    """The same as `replacing` for a folder of files and folders: yield a temporary one beside `path`, new and empty."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        delete(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        move_into_place(temporary, path)
    finally:
        delete(temporary)


def move_into_place(made: Path, path: Path) -> None:
    """Flush a file or folder to the disk and rename it over `path`, which lies on the same disk."""
    for entry in [*made.rglob("*"), made]:
        if entry.is_dir():
            _flush_folder(entry)
        else:
            with entry.open("rb+") as file:
                os.fsync(file.fileno())
    if made.is_dir() or path.is_dir():
        delete(path)
    os.replace(made, path)
    _flush_folder(path.parent)


def delete(path: Path) -> None:
    """Delete a file or a folder, if it is there; a folder is out of the way before the first file in it is gone."""
    if path.is_dir():
        doomed = path.with_name(f".{path.name}.{os.getpid()}.gone.tmp")  # not the name of what replaces it
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path | str) -> None:
    """Delete what killed processes left of `replacing` in a folder and the folders in it; to be called by its only writer."""
    for pattern in TEMPORARIES:
        for path in [*Path(folder).glob(pattern), *Path(folder).glob(f"*/{pattern}")]:
            delete(path)


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk when its folder is; Windows has no such call."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
