"""Exceptions that the command line prints as one line, with an exit code."""

import signal

# What schedulers send before they take a machine back; Windows has no SIGUSR1.
SCHEDULER_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class UserError(Exception):
    """What was wrong, where (file, key, step), and what to do: one line.

    The command line prints it without a traceback and exits with code 2 (see `lightning_diff.cli`).
    """

    def __init__(self, message: str):
        # A loader's worker process has its error raised again with a traceback for a message; the message proper ends it.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2])


class Stopped(Exception):
    """A run stopped by a signal, after saving what there was to save.

    The exit code is 130 for Ctrl-C, as a shell expects; for the signals by which schedulers take a machine back it is 75
    (EX_TEMPFAIL of sysexits.h: try again later), which tells a job script to put the job back into the queue.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
        self.exit_code = 75 if signum in SCHEDULER_SIGNALS else 128 + signum
