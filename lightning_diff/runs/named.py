"""Runs by the name that a person gives them: a run folder, the name of one in runs/, or a model file. No model is read."""

from pathlib import Path

from ..artifacts import places, user_code
from ..foundation.binding import nearest
from ..foundation.errors import UserError


def find(run: Path) -> Path:
    """The folder or model file that a person means (see `places.find`); what modules it notes become importable.

    UserError with the nearest name in runs/ if there is none.
    """
    if (path := places.find(run)).exists():
        if path.is_file() and not places.is_one(path):
            raise UserError(
                f"{run}: is a file, and no model's; name a run folder, or a .safetensors, .json or .pkl file"
            )
        user_code.make_importable(home(path))
        return path
    known = sorted(path.name for path in places.RUNS.glob("*") if path.is_dir())
    raise UserError(f"{run}: no such run; {nearest(run.name, known, 'runs holds')}")


def home(path: Path) -> Path:
    """The run folder of a folder or model file."""
    return path if path.is_dir() else path.parent
