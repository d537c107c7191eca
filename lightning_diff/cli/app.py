"""The command line, `lightning-diff COMMAND`; errors become exit codes.

0: done. 1: doctor found something broken, or runs of a grid failed. 2: a mistake that one line on stderr explains. 130 for Ctrl-C,
129 for SIGHUP, and 75 for SIGTERM and SIGUSR1, by which schedulers take a machine back: the job may go back into the queue. A run
saves first in each of these cases. Anything else is a fault of this program and shows a traceback, as `--debug` does for every
error. A training goes on without a stdout or stderr that is closed or full.
"""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from ..foundation import caches, stopping
from ..foundation.errors import Stopped, UserError
from ..foundation.streams import lasting_streams
from ..runs import recipe
from .command import Command
from .compare import compare
from .data import data
from .describe import describe
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .import_ import import_
from .init import init
from .new import new
from .recipes import recipes
from .report import report
from .resume import resume
from .runs import runs
from .sample import sample
from .schedule import schedule
from .show import show
from .train import train

app = typer.Typer(
    epilog="An error is one line; --debug, anywhere on the line, adds the traceback.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for command in (
    train,
    resume,
    runs,
    sample,
    evaluate,
    schedule,
    compare,
    report,
    export,
    import_,
    doctor,
    describe,
    show,
    recipes,
    new,
    init,
):
    app.command(command.__name__.rstrip("_"), cls=Command)(command)  # `import` is a word of Python's
app.add_typer(data)


def _print_version(wanted: bool) -> bool:
    if wanted:
        try:
            print(f"lightning_diff {version('lightning_diff')}")
        except PackageNotFoundError:
            print("lightning_diff, of no version: it is not installed")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train diffusion models from recipes, sample from them, measure them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    plain, warnings.formatwarning = warnings.formatwarning, _one_line  # type: ignore[assignment]
    with lasting_streams() as out:
        try:
            _look_around()
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
            # In one write, or another process's line may come between.
            print(f"{message or 'stopped by Ctrl-C'}\n", end="", file=sys.stderr, flush=True)
        # A reader or a terminal that went away wants no more.
        is_lost = out.flushed() not in (0, errno.EPIPE, errno.EIO)
    trains = words[0] in ("train", "resume") and "--dry-run" not in words
    return 2 if is_lost and not code and not trains else code


def _look_around() -> None:
    """What a command needs of its surroundings, before it imports anything large."""
    try:
        recipe.make_importable(Path.cwd())
    except FileNotFoundError:
        raise UserError("the working folder has been deleted; change to one that is there") from None
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal's encoding does not know
    try:
        remark = caches.provide()
    except OSError as error:
        remark = f"caches cannot be written anywhere ({error}); set {caches.OWN} and TMPDIR"
    if remark and os.environ.get("LOCAL_RANK", "0") == "0":
        warnings.warn(remark, stacklevel=2)


def _verdict(error: BaseException) -> tuple[int, str]:
    """Exit code and message for an error that is somebody's; 0 for one that is a fault of the program."""
    if isinstance(error, UserError):
        return 2, f"error: {' '.join(str(error).split())}"
    if isinstance(error, Stopped):
        return error.exit_code, str(error)
    if isinstance(error, UnicodeEncodeError):
        return (
            2,
            f"error: {error.object[:200]!a}: the system's encoding, {error.encoding}, cannot write it; set PYTHONUTF8=1",
        )
    if isinstance(error, typer.Abort):  # what older typers make of Ctrl-C
        return 130, "stopped by Ctrl-C"
    if hasattr(error, "format_message"):  # typer's own complaints about the command line
        return 2, f"error: {error.format_message()}"
    return 0, ""


def _one_line(message: Warning | str, *_: object) -> str:
    return f"warning: {' '.join(str(message).split())}\n"
