"""Where the run or model lies that a person names: one rule for every command, key of a recipe and function."""

import warnings
from pathlib import Path

from ..foundation.first_process import is_first_process

RUNS = Path("runs")
RECORD = "model.json"  # as in `model`, without torch
OF_RUN = ("recipe.yaml", "checkpoints", "model.safetensors", RECORD)  # one of them makes a folder a run's or a model's
OF_MODEL = (".safetensors", ".json", ".pkl")


def find(name: Path | str) -> Path:
    """The run folder, model folder or model file of this name.

    First what lies at that path, if it is one; then the run of that name in runs/. Where there are both, the first is taken, and a
    warning says so. Where there is neither, the path itself: what lies there, if anything does, is refused by who reads it.
    """
    path, run = Path(name), RUNS / name
    if path.is_absolute() or not run.exists():
        return path
    if not is_one(path):
        return run if is_one(run) or not path.exists() else path
    if is_one(run) and run.resolve() != path.resolve():
        say_taken(name, path, run)
    return path


def is_one(path: Path) -> bool:
    """Whether a run or a model lies there, whole or not."""
    return any((path / name).exists() for name in OF_RUN) or (path.suffix in OF_MODEL and path.is_file())


def say_taken(name: Path | str, taken: Path, other: Path) -> None:
    """A warning that a name means two things, and which was taken."""
    if is_first_process():
        first, second = (
            f"./{path}" if len(path.parts) == 1 and path.parts[0] != "/" else str(path) for path in (taken, other)
        )
        warnings.warn(f"{name}: is {first} and {second}; the first is taken, name the other by its path", stacklevel=2)
