"""The command line: lightning-diff train | sample | evaluate | schedule | compare | export | doctor; errors become exit codes.

0: done. 1: doctor found something broken. 2: a mistake that one line on stderr explains. 130 for Ctrl-C, 129 for SIGHUP, and 75 for
SIGTERM and SIGUSR1, by which schedulers take a machine back: the job may go back into the queue. A run saves first in each of these
cases. Anything else is a fault of this program and shows a traceback, as `--debug` does for every error. A training goes on
without a stdout or stderr that is closed or full.
"""

import errno
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import typer

from ..foundation import stopping
from ..foundation.errors import Stopped, UserError
from ..foundation.streams import lasting_streams
from ..runs import recipe
from .compare import compare
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .sample import sample
from .schedule import schedule
from .solver_names import NamesSolvers
from .train import train

app = typer.Typer(
    help="Train diffusion models from recipes, sample from them, measure them.",
    epilog="An error is one line; --debug, anywhere on the line, adds the traceback.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for command in (train, sample, evaluate, schedule, compare, export, doctor):
    app.command(cls=NamesSolvers)(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    recipe.make_importable(Path.cwd())
    plain, warnings.formatwarning = warnings.formatwarning, _one_line  # type: ignore[assignment]
    with lasting_streams() as out:
        try:
            with stopping.listening():
                code, message = app(words, "lightning-diff", standalone_mode=False) or 0, None
        except SystemExit as error:
            # What Lightning makes of Ctrl-C before the first step.
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            code, message = 130, None
        except (Exception, Stopped) as error:
            code, message = _verdict(error)
            if not code:
                raise
            if debug:
                traceback.print_exc()
        finally:
            warnings.formatwarning = plain
        if message or code == 130:  # typer, too, makes this of Ctrl-C
            print(message or "stopped by Ctrl-C", file=sys.stderr)
        # A reader or a terminal that went away wants no more.
        is_lost = out.flushed() not in (0, errno.EPIPE, errno.EIO)
    trains = words[0] == "train" and "--dry-run" not in words
    return 2 if is_lost and not code and not trains else code


def _verdict(error: BaseException) -> tuple[int, str]:
    """Exit code and message for an error that is somebody's; 0 for one that is a fault of the program."""
    if isinstance(error, UserError):
        return 2, f"error: {' '.join(str(error).split())}"
    if isinstance(error, Stopped):
        return error.exit_code, str(error)
    if isinstance(error, typer.Abort):  # what older typers make of Ctrl-C
        return 130, "stopped by Ctrl-C"
    if hasattr(error, "format_message"):  # typer's own complaints about the command line
        return 2, f"error: {error.format_message()}"
    return 0, ""


def _one_line(message: Warning | str, *_: object) -> str:
    return f"warning: {' '.join(str(message).split())}\n"
