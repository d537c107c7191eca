"""Signals that ask a program to end: obeyed at once, or noted and obeyed where the state of a training is whole.

A command begins in the first way: the handler raises `Stopped`, and every `finally` cleans up what was being written. A training
changes to the second with `defer`; from then on a signal is obeyed

    after the optimiser step under way       by `callbacks.Checkpoint`, which saves and raises `Stopped`
    inside `whole(...)`                      between two steps: at a `check()`, or at once while it only waits

A thread sees to it that nothing takes longer than it may: it hears of a signal while the main thread waits in a library for a
process that is gone or a disk that does not answer, says a sentence after a limit, and ends the process.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal

from .errors import STOP_SIGNALS, Stopped, exit_code

CLEAN_UP_SECONDS = 20.0  # from the signal until a process has ended that does not save
STEP_SECONDS = 120.0  # for the optimiser step under way
SAVE_SECONDS = 900.0  # for a checkpoint
REPEAT_SECONDS = 1.0  # a job's signal may come twice at once: to the process, and to its group

Agree = Callable[[int], int]
Place = Literal["moment", "batch", "chunk", "act"]  # where what may be left can be left


@dataclass
class _State:
    """What there is to know of the signals; changed by the main thread alone, but for `heard`."""

    is_listening: bool = False
    where: str = ""
    signum: int = 0  # that was noted, or raised
    since: float = 0.0  # time.monotonic() of it, or of the last progress since then
    is_raised: bool = False
    is_deferred: bool = False
    is_alone: bool = True  # one process: it need not agree with others
    agree: Agree | None = None
    whole: list[Place] = field(default_factory=list)  # of each `whole` under way
    saves: int = 0  # `saving()` under way
    wakeup: tuple[int, int, int] | None = None  # reading end, writing end, and the file descriptor of before
    handlers: dict[int, object] = field(default_factory=dict)


_state = _State()


@contextmanager
def listening(where: str = "") -> Iterator[None]:
    """Handlers for `STOP_SIGNALS`, until the outermost of these ends; nothing where signals belong to another thread.

    A SIGHUP that is ignored stays so: that is what nohup does.

    Args:
        where: the end of the sentence "stopped by SIGTERM ...".
    """
    before, is_outermost = _state.where, not _state.is_listening
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _state.signum:  # the last of several trainings ended before it obeyed
        raise stopped(_state.signum, f"stopped by {signal.Signals(_state.signum).name} {where}".rstrip())
    _state.where = where
    if is_outermost:
        _start()
    try:
        yield
    finally:
        _state.where = before
        if is_outermost:
            _end()


def _start() -> None:
    for signum in STOP_SIGNALS:
        handler = signal.getsignal(signum)
        if signum != getattr(signal, "SIGHUP", None) or handler != signal.SIG_IGN:
            _state.handlers[signum] = handler
            signal.signal(signum, _on_signal)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _state.wakeup = reading, writing, signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _state.is_listening = True
    threading.Thread(target=_watch, args=(reading, _state), daemon=True, name="signals").start()


def _end() -> None:
    global _state
    state, _state = _state, _State()
    state.is_listening = False
    for signum, handler in state.handlers.items():
        signal.signal(signum, handler)  # type: ignore[arg-type]
    if state.wakeup is not None:
        _, writing, before = state.wakeup
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the thread; it closes its own end


def _in_child() -> None:
    """A forked process has no part in this: it must not be the one to raise, nor write into its parent's pipe."""
    global _state
    if _state.is_listening:
        state, _state = _state, _State()
        with suppress(ValueError):  # not this process's main thread
            for signum in state.handlers:
                signal.signal(signum, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _on_signal(signum: int, frame: FrameType | None) -> None:
    now, name = time.monotonic(), signal.Signals(signum).name
    if signum == _state.signum == signal.SIGINT and not (_state.is_raised and now - _state.since < REPEAT_SECONDS):
        signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)
    if _state.is_raised:
        return
    if not _state.is_deferred:
        raise stopped(signum, f"stopped by {name} {_state.where}".rstrip())
    if _state.signum and now - _state.since > REPEAT_SECONDS and not _state.saves:
        raise stopped(signum, f"stopped by a second {name} in the middle of a step, which is lost")
    if not _state.signum:
        _state.signum, _state.since = signum, now
        if _state.whole[-1:] == ["moment"] and _state.is_alone:
            raise stopped(signum, is_whole=True)
        with suppress(OSError):
            # Not print, which must not be interrupted by itself.
            os.write(1, f"\n{name}: finishing this step and saving\n".encode())


def stopped(signum: int, message: str = "", *, is_whole: bool = False) -> Stopped:
    """The exception to raise for a signal; from here on no other one is obeyed, but for a second Ctrl-C."""
    _state.signum, _state.since, _state.is_raised = signum, time.monotonic(), True
    return Stopped(signum, message or f"stopped by {signal.Signals(signum).name}", is_whole=is_whole)


def defer(agree: Agree | None = None, *, is_alone: bool = True) -> None:
    """From here on signals are noted.

    Args:
        agree: of several processes: takes the signal that this one noted, 0 for none, gives the one that any of them did; called
            by all of them at the same places.
        is_alone: whether there is only this process.
    """
    _state.is_deferred, _state.agree, _state.is_alone = True, agree, is_alone


def obey() -> None:
    """The reverse of `defer`."""
    _state.is_deferred, _state.agree, _state.is_alone = False, None, True


def pending() -> int:
    """The signal that was noted, 0 if none."""
    return _state.signum


@contextmanager
def whole(place: Place) -> Iterator[None]:
    """Between two optimiser steps: what is done inside can be left and done again by the run that resumes.

    Args:
        place: where it may be left. By one process: anywhere ("moment": waiting), else at every `check`, as what exchanges weights
            and puts them back. By several, which have to agree: at a `check` of this place, where all of them come equally often;
            in an "act" they never do.
    """
    _state.whole.append(place)
    try:
        if place == "moment":
            check()
        yield
    finally:
        if _state.whole:
            _state.whole.pop()


def check(place: Place | None = None) -> None:
    """Raise `Stopped` if a signal was noted and the state is whole; to be called in everything that takes long."""
    if not _state.whole or not _state.is_deferred or _state.is_raised:
        return
    if not _state.is_alone:
        if place != _state.whole[-1] or _state.agree is None:
            return
        _state.signum = _state.agree(_state.signum)
    if _state.signum:
        raise stopped(_state.signum, is_whole=True)


@contextmanager
def saving() -> Iterator[None]:
    """While a checkpoint is written, which a signal after the first does not cut short; but a second Ctrl-C does."""
    _state.saves += 1
    try:
        yield
    finally:
        _state.saves -= 1
        _state.since = time.monotonic()


def _watch(reading: int, state: _State) -> None:
    """The thread. Python's handlers run only when the main thread comes back from what it is in; this one hears at once."""
    heard: tuple[int, float] | None = None
    try:
        while True:
            if select.select([reading], [], [], None if heard is None else 0.5)[0]:
                news = os.read(reading, 64)
                if not news:
                    return
                signals = [signum for signum in news if signum in STOP_SIGNALS]
                if signals and heard is None:
                    heard = signals[0], time.monotonic()
            if heard is not None:
                signum, since = heard
                doing, limit = _limit(state)
                seconds = time.monotonic() - max(since, state.since)
                if seconds > limit and state.is_listening:
                    _give_up(signum, f"{doing} did not end within {seconds:.0f} s")
    finally:
        os.close(reading)


def _limit(state: _State) -> tuple[str, float]:
    """What is under way, and how many seconds it may take."""
    if state.saves:
        return "saving", SAVE_SECONDS
    if state.is_deferred and not state.is_raised:
        return "the step under way", STEP_SECONDS
    return "what was under way", CLEAN_UP_SECONDS


def _give_up(signum: int, reason: str) -> None:
    sentence = f"stopped by {signal.Signals(signum).name}: {reason}; what was saved before is there\n"
    with suppress(OSError):
        os.write(2, sentence.encode())
    os._exit(exit_code(signum))
