"""The one kind of error that is a sentence for the person at the keyboard."""


class UserError(Exception):
    """What was wrong, where (file, key, step), and what to do: one line.

    The command line prints it without a traceback and exits with code 2 (see `lightning_diff.cli`).
    """
