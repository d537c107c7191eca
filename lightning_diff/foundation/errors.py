"""Exceptions that the command line prints as one line, with an exit code."""

import signal

# What schedulers send before they take a machine back; Windows has no SIGUSR1.
SCHEDULER_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
# What ends a run that it lets save: besides these Ctrl-C, and SIGHUP of a terminal that is closed, which Windows has not.
STOP_SIGNALS = (signal.SIGINT, *SCHEDULER_SIGNALS, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class UserError(Exception):
    """What was wrong, where (file, key, step), and what to do: one line.

    The command line prints it without a traceback and exits with code 2 (see `lightning_diff.cli`).
    """

    def __init__(self, message: str):
        # A loader's worker process has its error raised again with a traceback for a message; the message proper ends it.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2])


class NotHereError(UserError):
    """Of something that is not on this machine, and may be on another: data, for instance."""


class Stopped(BaseException):
    """A command stopped by a signal, after saving what there was to save.

    Like KeyboardInterrupt it is no Exception: what a library makes of its own errors must not swallow it. The exit code is 130 for
    Ctrl-C and 129 for SIGHUP, as a shell expects; for the signals by which schedulers take a machine back it is 75 (EX_TEMPFAIL of
    sysexits.h: try again later), which tells a job script to put the job back into the queue.

    Args:
        signum: the signal's number.
        message: one line.
        is_whole: whether it was raised between two optimiser steps, where the state of a training may be saved.
    """

    def __init__(self, signum: int, message: str, *, is_whole: bool = False):
        super().__init__(message)
        self.signum, self.is_whole = signum, is_whole
        self.exit_code = exit_code(signum)


def exit_code(signum: int) -> int:
    """Of a process that this signal stopped."""
    return 75 if signum in SCHEDULER_SIGNALS else 128 + signum
