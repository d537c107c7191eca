"""The options that several commands have: their names, types and help, and what of them can be read without a model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..foundation.errors import UserError
from ..runs import choices
from . import completion


def choice(option: str, names: Callable[[], Sequence[str]], help: str) -> Any:
    """An option that takes one of some names, refused before anything is imported; `names` is called when it is used.

    Args:
        option: as it is typed, for messages.
        names: the names.
        help: for the command's help, in which {solvers} and the like stand for names (see `command`).
    """

    def known(value: str | None) -> str | None:
        if value is not None:
            choices.refuse_unknown(option, value, names())
        return value

    return typer.Option(option, metavar="NAME", help=help, callback=known, autocompletion=completion.one_of(names))


Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run folder, the name of one in runs/, or a model file.",
        autocompletion=completion.runs,
    ),
]
Steps = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Solver steps; default 18, or 2 for a consistency model.")
]
Solver = Annotated[str | None, choice("--solver", lambda: choices.solvers().all, "{solvers}; default by the model.")]
Grid = Annotated[str | None, choice("--grid", choices.grids, "Noise levels: {grids}; default by the solver.")]
Levels = Annotated[
    str | None,
    typer.Option(metavar="X,X", help="For consistency: its noise levels after the first, 0.8,0.3 for instance."),
]
ScheduleFile = Annotated[
    Path | None,
    typer.Option(
        "--schedule",
        metavar="PATH",
        help="A schedule.json, or a run with one: its grid and its solver; or a step_policy.safetensors.",
    ),
]
Guidance = Annotated[float, typer.Option(metavar="X", help="Scale of classifier-free guidance; 1 is none.")]
Guide = Annotated[
    Path | None, typer.Option(metavar="RUN", help="A worse model to guide by; without it, this one without labels.")
]
Interval = Annotated[tuple[float, float], typer.Option(metavar="X X", help="Noise levels at which to guide.")]
Churn = Annotated[float, typer.Option(min=0.0, metavar="X", help="EDM's S_churn: fresh noise, for {churned}.")]
SigmaMin = Annotated[float | None, typer.Option(metavar="X", help="Smallest noise level; default 0.002.")]
SigmaMax = Annotated[float | None, typer.Option(metavar="X", help="Largest noise level; default 80.")]
Batch = Annotated[int, typer.Option(min=1, metavar="N", help="Images at a time; the samples do not depend on it.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, ...; auto takes a GPU if there is one.")]


def noise_levels(text: str | None) -> tuple[float, ...] | None:
    """What --levels says."""
    try:
        return None if text is None else tuple(float(level) for level in text.split(","))
    except ValueError:
        raise UserError(f"--levels: expected noise levels with commas, got {text!r}") from None
