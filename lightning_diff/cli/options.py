"""What the command line's options mean: checked before any work, and turned into what the library takes.

Every message names the option or the file.
"""

import warnings
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from ..artifacts import load_denoiser
from ..artifacts.schedule import load_schedule
from ..artifacts.step_policy import holds_step_policy, load_step_policy
from ..denoiser import Denoiser
from ..foundation.binding import nearest
from ..foundation.errors import UserError
from ..samplers import CHURNED, ODE_SOLVERS, SOLVERS, either
from ..schedules import GRIDS
from ..schedules.adaptive_sampling import PolicySampling
from ..schedules.grids import through_angles
from ..schedules.sampling import Sampling, choose


def model(run: Path) -> Path:
    """The folder or model file that a person means."""
    for path in (run, Path("runs") / run):
        if path.exists():
            return path
    known = sorted(path.name for path in Path("runs").glob("*") if path.is_dir())
    raise UserError(f"{run}: no such run; {nearest(run.name, known, 'runs holds')}")


def home(path: Path) -> Path:
    """The run folder of a folder or model file."""
    return path if path.is_dir() else path.parent


def check(option: str, name: str, choices: Collection[str]) -> None:
    """Refuse a name that is not among the choices."""
    if name not in choices:
        raise UserError(f"{option}: no {name!r}; {nearest(name, choices, 'choose one of')}")


def sampling(
    record: dict[str, Any],
    solver: str | None,
    steps: int | None,
    grid: str | None,
    levels: str | None,
    *,
    churn: float = 0.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Sampling:
    """The solver and its noise levels: what was asked for, or what suits the model that the record describes."""
    if solver is not None:
        check("--solver", solver, CHURNED if churn else SOLVERS)  # the others draw no churn's noise
    if grid is not None:
        check("--grid", grid, GRIDS)
    try:
        given = None if levels is None else [float(level) for level in levels.split(",")]
    except ValueError:
        raise UserError(f"--levels: expected noise levels with commas, got {levels!r}") from None
    model = SimpleNamespace(**record)
    try:
        chosen = choose(model, solver, steps, grid, given, sigma_min=sigma_min, sigma_max=sigma_max)
        kept = record["levels"].get(str(chosen.steps))
        if chosen.name == "consistency" and kept is not None:
            chosen = choose(model, solver, None, None, kept, sigma_max=sigma_max)
    except ValueError as error:
        raise UserError(f"{'--sigma-min, --sigma-max' if levels is None else '--levels'}: {error}") from error
    if churn and chosen.solver not in CHURNED:
        raise UserError(f"--churn: is for the solver {either(CHURNED)}, not {chosen.solver}")
    return chosen


def scheduled(
    record: dict[str, Any], path: Path, solver: str | None, steps: int | None, others: dict[str, object]
) -> Sampling | PolicySampling:
    """The grid in a file, for its solver and number of steps or for other ones; or the policy in a file, as it is.

    Either may be used on another model than it was learned on, with a warning.

    Args:
        record: of the model.
        path: of the schedule or policy, or the run whose newest it is.
        others: options that say what the schedule says, by name, None where they were not given.
    """
    where = path if path.suffix in (".json", ".safetensors") else home(model(path))
    if holds_step_policy(where):
        return _adaptive(record, where, {"--solver": solver, "--steps": steps} | others)
    for name, value in others.items():
        if value is not None:
            raise UserError(f"{name}: is not for --schedule, which gives the noise levels")
    found = load_schedule(where)
    if solver is not None:
        check("--solver", solver, ODE_SOLVERS)
    if record["sha256"] != found.model:
        warnings.warn(f"{path}: was learned on another model; the grid may serve this one less well", stacklevel=2)
    sigmas, name = found.grid(), f"{solver or found.solver}/{found.method}"
    if steps is not None and steps != found.steps:
        if found.steps == 1:
            raise UserError(f"--steps: {path} has one step, of which no other grid can be made")
        sigmas, name = through_angles(sigmas, steps, record["sigma_data"]), f"{name}@{found.steps}"
    return Sampling(solver or found.solver, sigmas, name)


def _adaptive(record: dict[str, Any], path: Path, others: dict[str, object]) -> PolicySampling:
    for name, value in others.items():
        if value is not None:
            raise UserError(f"{name}: is not for the policy of --schedule, which chooses each sample's levels itself")
    if record["kind"] == "consistency":
        raise UserError(f"--schedule: {path} is a step policy for denoisers, and this is a consistency model")
    found = load_step_policy(path)
    if record["sha256"] != found.model:
        warnings.warn(f"{path}: was learned on another model; the policy may serve this one less well", stacklevel=3)
    return PolicySampling(found.policy, f"{found.policy.solver}/policy_{found.policy.gamma:g}")


def check_guidance(record: dict[str, Any], guidance: float, guide: Path | None = None) -> None:
    """Refuse guidance that this model does not know."""
    takes_scale = bool(record["net"].get("guided", False))
    if takes_scale and guide is not None:
        raise UserError("--guide: this model takes the scale as an input and needs no guide")
    if guidance != 1 and record["kind"] == "consistency" and not takes_scale:
        raise UserError(
            "--guidance: this consistency model was distilled without; model.guidance of its recipe says with what"
        )


def classes(labels: str, num_classes: int) -> Int64[Tensor, " classes"] | None:
    """The classes to cycle through; None for samples without a label."""
    if labels == "none" or (labels == "all" and not num_classes):
        return None
    if not num_classes:
        raise UserError("--labels: this model has no classes")
    if labels == "all":
        return torch.arange(num_classes)
    try:
        chosen = [int(label) for label in labels.split(",")]
    except ValueError:
        raise UserError(f"--labels: expected numbers with commas, all or none, got {labels!r}") from None
    for label in chosen:
        if not 0 <= label < num_classes:
            raise UserError(f"--labels: this model has classes 0 to {num_classes - 1}, not {label}")
    return torch.tensor(chosen)


def cycled(classes: Int64[Tensor, " classes"], n: int) -> Int64[Tensor, " n"]:
    """A label for each of n samples."""
    return classes[torch.arange(n) % len(classes)]


def load(path: Path, device: str) -> Denoiser:
    """The denoiser, on the device of that name or the best one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    denoiser = load_denoiser(path)
    try:
        return denoiser.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device: {device} cannot be used: {str(error).splitlines()[0]}") from error


def writable(target: Path | None, default: Path, shape: list[int]) -> Path:
    """Where to write samples of this shape, if that is possible: before any are drawn.

    Args:
        target: what was asked for.
        default: without its suffix, if nothing was.
        shape: of one sample.
    """
    is_picture = len(shape) == 3 and shape[0] in (1, 3)
    if target is None:
        target = default.with_name(default.name + (".png" if is_picture else ".npz"))
    if target.suffix not in (".png", ".npz", ""):
        raise UserError(f"--out: {target} is none of a .png, a .npz or a folder")
    if target.suffix != ".npz" and not is_picture:
        raise UserError(f"--out: samples of shape {shape} are no pictures; give a file that ends in .npz")
    folder = target.parent if target.suffix else target
    try:
        if target.suffix and target.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(20, f"{folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out: {target} cannot be written: {error.strerror}") from error
    return target


def table(path: Path) -> Any:
    """The metrics.csv to append to, if it can be: before anything is measured."""
    from ..artifacts.metrics_table import MetricsTable  # imports Lightning: 4 s

    is_new = not path.exists()
    try:
        path.open("a").close()
        if is_new:
            path.unlink()  # the header is written with the first row
        return MetricsTable(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
