"""The one kind of error that is a sentence for the person at the keyboard."""


class UserError(Exception):
    """What was wrong, where (file, key, step), and what to do: one line.

    The command line prints it without a traceback and exits with code 2 (see `lightning_diff.cli`).
    """

    def __init__(self, message: str):
        # A loader's worker process has its error raised again with a whole traceback for a message; the sentence ends it.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2])


class Stopped(Exception):
    """A signal asked the run to stop and its state has been saved; the exit code is 128 + signum, as a shell expects."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
