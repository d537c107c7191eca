"""stdout and stderr that cannot end a program."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stream(Protocol):
    """What is used of a text stream."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...


class Lasting:
    """A text stream that a program outlives: closed by its reader, on a full disk, of a terminal that is gone.

    What cannot be written is dropped, from the first failure on; that is said once on stderr.

    Args:
        stream: what is written to.
        name: for the message.
    """

    def __init__(self, stream: Stream, name: str):
        self._stream, self._name = stream, name
        self._errno = 0

    def write(self, text: str) -> int:
        if not self._errno:
            try:
                return self._stream.write(text)
            except (OSError, ValueError) as error:  # ValueError: somebody closed the object
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        self.flushed()

    def flushed(self) -> int:
        """Flush; the number of the first error there was, 0 for none."""
        if not self._errno:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)
        return self._errno

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError | ValueError) -> None:
        self._errno = getattr(error, "errno", None) or errno.EBADF
        if self._name != "stderr" and sys.stderr is not None:
            reason = getattr(error, "strerror", None) or str(error)
            print(f"warning: stdout: {reason}; going on without it", file=sys.stderr)


@contextmanager
def lasting_streams() -> Iterator[Lasting]:
    """stdout, which is yielded, and stderr as streams that cannot end a run.

    Where the process was started without one of the first three file descriptors, the next file that is opened would get its
    number, and with it what somebody prints; /dev/null takes the place.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    before = sys.stdout, sys.stderr
    out, err = (
        Lasting(stream if stream is not None else open(os.devnull, "w"), name)  # noqa: SIM115
        for stream, name in zip(before, ("stdout", "stderr"), strict=True)
    )
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        for stream in (out, err):
            if stream.flushed():
                _forget(stream)
        sys.stdout, sys.stderr = before


def _forget(stream: Lasting) -> None:
    """What is left in the buffer would fail again when the program ends, and change its exit code."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
