"""The options that several commands have: their names, types and help, and what of them can be read without a model."""

from pathlib import Path
from typing import Annotated

import typer

from ..foundation.errors import UserError

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, the name of one in runs/, or a model file.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Solver steps; default 18, or 2 for a consistency model.")]
Solver = Annotated[str | None, typer.Option(help="{solvers}; default by the model.")]
Grid = Annotated[
    str | None, typer.Option(help="Noise levels: karras, log_snr, uniform or tangent; default by the solver.")
]
Levels = Annotated[
    str | None, typer.Option(help="For consistency: its noise levels after the first, 0.8,0.3 for instance.")
]
ScheduleFile = Annotated[
    Path | None,
    typer.Option(
        "--schedule",
        metavar="PATH",
        help="A schedule.json, or a run with one: its grid and its solver; or a step_policy.safetensors.",
    ),
]
Guidance = Annotated[float, typer.Option(help="Scale; 1 is none.")]
Guide = Annotated[
    Path | None, typer.Option(metavar="RUN", help="A worse model to guide by; without it, this one without labels.")
]
Interval = Annotated[tuple[float, float], typer.Option(help="Noise levels at which to guide.")]
Churn = Annotated[float, typer.Option(min=0.0, help="EDM's S_churn: fresh noise, for {churned}.")]
SigmaMin = Annotated[float | None, typer.Option(help="Smallest noise level; default 0.002.")]
SigmaMax = Annotated[float | None, typer.Option(help="Largest noise level; default 80.")]
Batch = Annotated[int, typer.Option(min=1, help="Images at a time; the samples do not depend on it.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes a GPU if there is one.")]


def noise_levels(text: str | None) -> tuple[float, ...] | None:
    """What --levels says."""
    try:
        return None if text is None else tuple(float(level) for level in text.split(","))
    except ValueError:
        raise UserError(f"--levels: expected noise levels with commas, got {text!r}") from None
