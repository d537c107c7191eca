"""Where an export goes: a folder that is whole or not there, and that replaces nothing but an export."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ...foundation.atomic import replacing_folder
from ...foundation.errors import UserError

MARK = "export.json"  # in every folder that is written here


def chosen(out: Path | None, home: Path, target: str) -> Path:
    """The folder to write to: the one asked for, or export/TARGET of the run.

    Raises:
        UserError: something is there that is no export, or the folder above is a file.
    """
    folder = home / "export" / target if out is None else out
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise UserError(f"{folder}: holds something that is no export; choose another place with --out, or remove it")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, and an export is a folder; choose another place with --out")
    return folder


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside it, which takes its place when the block ends well.

    Raises:
        UserError: it cannot be written; then what was there is still there, and nothing else.
    """
    above = [path for path in folder.parents if not path.exists()]  # made on the way
    try:
        with replacing_folder(folder) as temporary:
            yield temporary
    except BaseException as error:
        for path in above:
            with suppress(OSError):
                path.rmdir()
        raise _told(error, folder) from error


def _told(error: BaseException, folder: Path) -> BaseException:
    """What to say of it: itself, unless writing failed."""
    if not _is_of_the_disk(error):
        return error
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
    return UserError(f"{folder}: cannot be written ({reason}); make room or choose another place with --out")


def _is_of_the_disk(error: BaseException) -> bool:
    """Whether writing failed: torch and safetensors tell of a full disk in words of their own."""
    if isinstance(error, OSError):
        return error.errno in _OF_THE_DISK
    of_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in _OF_TORCH)
    return isinstance(error, SafetensorError) or of_torch


_OF_TORCH = ("PytorchStreamWriter", "file write failed", "inline_container")
_OF_THE_DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
)
