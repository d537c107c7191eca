"""Processes that wait for each other: a word while they do, an end if it takes too long, and what the environment says of them."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import distributed

from ..foundation.errors import UserError

WORD_SECONDS = 20.0  # until a process that waits for the others says so
LIMIT_SECONDS = 900.0  # until it ends
OF_TORCHRUN = "; does torchrun still run? If there is none, unset TORCHELASTIC_RUN_ID"


@contextmanager
def meeting(processes: int, advice: str = "") -> Iterator[None]:
    """The block in which this process joins the others.

    Args:
        processes: how many there are; nothing is said of one alone.
        advice: what ends a word about those that do not come.
    """
    done = threading.Event()
    if processes > 1:
        facts = done, processes, advice
        threading.Thread(target=wait, args=facts, daemon=True, name="meeting").start()
    try:
        yield
    finally:
        done.set()


def wait(done: threading.Event, processes: int, advice: str) -> None:
    """The thread: the main one is in torch until all are there."""
    start, said = time.monotonic(), False
    while not (done.wait(0.5) or distributed.is_initialized()):
        seconds = time.monotonic() - start
        if seconds > WORD_SECONDS and not said:
            said = True
            place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
            limit = f"for {LIMIT_SECONDS:.0f} s at most"
            _write(f"waiting for the other processes of {processes} at {place}, {limit}{advice}")
        if seconds > LIMIT_SECONDS:
            _write(f"error: the {processes} processes did not meet within {seconds:.0f} s{advice}")
            os._exit(2)


def number(name: str, default: int | None, below: int | None = None) -> int:
    """A whole number from the environment. UserError if it is none, or not below a limit."""
    text = os.environ.get(name) or (None if default is None else str(default))
    limit = "" if below is None else f" from 0 to {below - 1}"
    try:
        found = int(text or "")
        if below is None or 0 <= found < below:
            return found
    except ValueError:
        pass
    raise UserError(f"{name}={text or ''} in the environment is no whole number{limit}; unset it or set it right")


def _write(sentence: str) -> None:
    with suppress(OSError, AttributeError):
        print(sentence, file=sys.stderr, flush=True)
