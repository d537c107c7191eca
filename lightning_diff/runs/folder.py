"""The run folder: held by one process, cleared of an earlier run, and a record of what trains in it."""

import json
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..artifacts import WEIGHTS, checkpoints, user_code
from ..foundation import devices
from ..foundation.atomic import replacing, sweep
from ..foundation.errors import UserError
from ..foundation.processes import is_first_process
from . import recipe
from .console import say
from .finished import FINISHED, mark_unfinished
from .lock import locked
from .recipe import Recipe

RECORDS = ("recipe.yaml", "versions.json")
PACKAGES = ("lightning_diff", "torch", "lightning", "torchmetrics", "omegaconf", "numpy", "safetensors")


def folder_of(settings: Recipe) -> Path:
    """The run folder of a recipe; `~` is the home folder, unless there is one of that name here, as version 0.1 made it."""
    runs = Path(settings["runs_dir"])
    if runs.exists():
        return runs / settings["name"]
    try:
        return runs.expanduser() / settings["name"]
    except RuntimeError as error:
        raise UserError(f"runs_dir: {runs}: {error}") from error


def holds_a_run(folder: Path) -> bool:
    """Whether there is something in a run folder that a new run would overwrite."""
    made = (folder / "checkpoints").glob(f"{checkpoints.PATTERN}*")  # those set aside included
    return any(made) or any((folder / name).exists() for name in (FINISHED, WEIGHTS))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The first process holds the run folder for all."""
    with ExitStack() as stack:
        if is_first_process():
            try:
                stale = stack.enter_context(locked(folder))
            except OSError as error:
                raise _not_writable(folder, error) from error
            if stale:
                say(stale)
        yield


def claim(folder: Path, *, never: bool, checkpoint: Path | None) -> None:
    """Make the run folder; move an earlier run out of the way when it is not resumed, never deleting it.

    Args:
        folder: the run's.
        never: whether the recipe says resume=never.
        checkpoint: what the run resumes from, if it does.
    """
    if not is_first_process():
        return
    try:
        if checkpoint is None and (holds_a_run(folder) or (never and folder.exists())):
            number = 1
            while (old := folder.with_name(f"{folder.name}.{number}")).exists():
                number += 1
            folder.rename(old)
            say(f"{folder}: the earlier run is now {old}")
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "samples").mkdir(exist_ok=True)
        with replacing(folder / ".writable") as temporary:
            temporary.touch()
        (folder / ".writable").unlink()
        mark_unfinished(folder)
        sweep(folder)
    except OSError as error:
        raise _not_writable(folder, error) from error


@contextmanager
def recorded(folder: Path, settings: Recipe, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Write recipe.yaml and versions.json; if training is refused before its first step, put back the earlier ones.

    Args:
        folder: the run's.
        settings: the recipe.
        has_begun: whether a step was made since.
    """
    if not is_first_process():
        yield
        return
    earlier = {path: path.read_bytes() for name in RECORDS if (path := folder / name).is_file()}
    write_record(folder, settings)
    try:
        yield
    except UserError:
        if not has_begun():
            for path, content in earlier.items():
                with replacing(path) as temporary:
                    temporary.write_bytes(content)
        raise


def write_record(folder: Path, settings: Recipe) -> None:
    """Write recipe.yaml and versions.json."""
    recipe.save(settings, folder / "recipe.yaml")
    record: dict[str, object] = {"python": platform.python_version(), "platform": platform.platform(), "argv": sys.argv}
    for package in PACKAGES:
        try:
            record[package] = version(package)
        except PackageNotFoundError:
            record[package] = "not installed"
    if (gpu := devices.description()) is not None:
        record["cuda"] = gpu
    record["modules"] = user_code.modules_of(settings)
    with replacing(folder / user_code.VERSIONS) as temporary:
        temporary.write_text(json.dumps(record, indent=2), encoding="utf-8")


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: the run folder cannot be written ({error.strerror}); set runs_dir")
