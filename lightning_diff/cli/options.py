"""The options that several commands have: their names, types and help, and what of them can be read without a model."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..foundation.errors import UserError
from ..runs import choices
from . import completion

if TYPE_CHECKING:
    from ..runs.sampler_settings import SamplerSettings

T = TypeVar("T")


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
SigmaMin = Annotated[
    float | None, typer.Option(metavar="X", help="Smallest noise level; default 0.002, or an imported model's.")
]
SigmaMax = Annotated[
    float | None, typer.Option(metavar="X", help="Largest noise level; default 80, or an imported model's.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Another seed, other samples.")]
Batch = Annotated[int, typer.Option(min=1, metavar="N", help="Images at a time; the samples do not depend on it.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, ...; auto takes a GPU if there is one.")]


def noise_levels(text: str | None) -> tuple[float, ...] | None:
    """What --levels says."""
    try:
        return None if text is None else tuple(float(level) for level in text.split(","))
    except ValueError:
        raise UserError(f"--levels: expected noise levels with commas, got {text!r}") from None


PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Prompts, cycled through: .txt, one a line, or .jsonl with prompt and perhaps label; default the model's.",
    ),
]
PromptTexts = Annotated[
    list[str] | None, typer.Option("--prompt", metavar="TEXT", help="A prompt; repeat it for several.")
]


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """The options of a sampler, as they were typed."""

    steps: Steps = None
    solver: Solver = None
    grid: Grid = None
    levels: Levels = None
    schedule: ScheduleFile = None
    guidance: Guidance = 1.0
    guide: Guide = None
    interval: Interval = (0.0, float("inf"))
    churn: Churn = 0.0
    sigma_min: SigmaMin = None
    sigma_max: SigmaMax = None
    seed: Seed = 0
    batch: Batch = 256
    device: Device = "auto"

    def settings(self, device: str) -> "SamplerSettings":
        """For a model, on the device that this process has."""
        from ..runs.sampler_settings import SamplerSettings  # and torch with it

        typed = {field.name: getattr(self, field.name) for field in fields(self)}
        return SamplerSettings(**typed | {"levels": noise_levels(self.levels), "device": device})

    def refuse_given(self, because: str, *, but: Sequence[str] = ()) -> None:
        """UserError for the first of these options that was typed with another value than its default."""
        for field in fields(self):
            if field.name not in but and getattr(self, field.name) != field.default:
                raise UserError(f"--{field.name.replace('_', '-')}: {because}")


def spread(command: Callable[..., T]) -> Callable[..., T]:
    """A command that takes a record of options, of one of the classes above, as a command that takes each option."""
    whole = inspect.signature(command)
    records: dict[str, Any] = {
        name: each.annotation for name, each in whole.parameters.items() if is_dataclass(each.annotation)
    }

    @wraps(command)
    def spread_out(**given: Any) -> T:
        for name, record in records.items():
            given[name] = record(**{field.name: given.pop(field.name) for field in fields(record)})
        return command(**given)

    parameters = []
    for name, each in whole.parameters.items():
        parameters += _options(records[name]) if name in records else [each]
    spread_out.__signature__ = whole.replace(parameters=parameters)  # type: ignore[attr-defined]
    spread_out.__annotations__ = {each.name: each.annotation for each in parameters}
    return spread_out


def _options(record: Any) -> list[inspect.Parameter]:
    """Of a record, each option as a parameter."""
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=field.type,
        )
        for field in fields(record)
    ]
