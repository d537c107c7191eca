"""Locks on bytes of one file, which processes share out among them; the system lets go of what a killed process held."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TAKEN = (errno.EACCES, errno.EAGAIN)


class FileLocks:
    """The bytes of a file, each of which one process can hold, or several together. Where there are no locks, everybody has all.

    A process has one of these for a file at a time: the system counts locks by process, and closing any lets go of all.

    Args:
        path: of the file, which is made, stays empty and is never deleted.
    """

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def __enter__(self) -> "FileLocks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)
        self._file = -1

    def take(self, byte: int, *, together: bool = False) -> bool:
        """Whether this process has it now; at once.

        Args:
            byte: which.
            together: with others that take it so.
        """
        return self._lock(byte, together=together, wait=False)

    def wait(self, byte: int) -> None:
        """Take it as soon as nobody else has it."""
        self._lock(byte, together=False, wait=True)

    def release(self, byte: int) -> None:
        if fcntl is not None and self._file >= 0:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)
            except OSError as error:
                if not _has_none(error):
                    raise

    @contextmanager
    def held(self, byte: int) -> Iterator[None]:
        """Alone with it while the block runs; waits for that."""
        self.wait(byte)
        try:
            yield
        finally:
            self.release(byte)

    def _lock(self, byte: int, *, together: bool, wait: bool) -> bool:
        if fcntl is None:
            return True
        how = (fcntl.LOCK_SH if together else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.lockf(self._file, how, 1, byte)
        except OSError as error:
            if error.errno in TAKEN:
                return False
            if not _has_none(error):
                raise
        return True


def _has_none(error: OSError) -> bool:
    """Whether the file system has no locks."""
    return error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
