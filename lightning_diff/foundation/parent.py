"""The first process of a machine and those that it starts: none of them outlives it, and it does not wait for one that is gone."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

MARK = "LIGHTNING_DIFF_STARTED_BY"  # in the environment of a started process: the number of the one that started it
LOOK_SECONDS = 1.0
OWN_END_SECONDS = 10.0  # for the others, from the end of one

_is_started = False  # whether this process was started by the first one
_children: list["subprocess.Popen[bytes]"] = []
_is_ending = threading.Event()


def is_started() -> bool:
    """Whether the first process of this machine started this one, which then ends with it, however that ends."""
    global _is_started
    mark = os.environ.pop(MARK, None)  # what this process starts is none of them
    if mark is None:
        return _is_started
    parent = os.getppid()
    if str(parent) == mark or sys.platform == "win32":  # where a virtual environment's Python starts another one
        _is_started = True
        threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent").start()
    elif not _lives(int(mark)):
        os._exit(1)  # it died before this process came so far
    return _is_started


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)  # the main thread may be in a library that waits for the others


@contextmanager
def marking() -> Iterator[None]:
    """While processes are being started."""
    os.environ[MARK] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(MARK, None)


def look_after(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End this process when one of these failed and it has not noticed: waiting in a library for one that is gone."""
    _children.extend(children)
    threading.Thread(target=_look, args=(list(children),), daemon=True, name="children").start()


def _look(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    while any(child.poll() is None for child in children) and not any(child.poll() for child in children):
        if _is_ending.wait(LOOK_SECONDS):
            return
    failed = next(((number, child.returncode) for number, child in enumerate(children, 1) if child.returncode), None)
    if failed is None or _is_ending.wait(OWN_END_SECONDS):
        return
    number, code = failed
    sentence = f"error: process {number} of {len(children) + 1} ended with exit code {code}, and so do the others\n"
    with suppress(OSError):
        os.write(2, sentence.encode())
    _kill(children)
    os._exit(code if code > 0 else 1)


def has_started() -> bool:
    """Whether this process has started others, which go on to the next training with it."""
    return bool(_children)


def end_children() -> None:
    """After an error: those that do not end by themselves now never would."""
    _is_ending.set()
    end = time.monotonic() + OWN_END_SECONDS
    while any(child.poll() is None for child in _children) and time.monotonic() < end:
        time.sleep(0.1)
    _kill(_children)


def _kill(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    for child in children:
        if child.poll() is None:
            child.kill()
