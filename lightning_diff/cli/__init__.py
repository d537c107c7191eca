"""The command line: what was typed, checked and handed on; errors become exit codes. No work is done here."""

from collections.abc import Sequence

from ..foundation import garbage

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: the words; None for those of this process, which then is the command line's own.
    """
    if arguments is None:
        garbage.put_off()
    from .app import main as run  # after that, for it imports

    try:
        return run(arguments)
    finally:
        garbage.take_up()  # so that Python need not walk through everything to end
