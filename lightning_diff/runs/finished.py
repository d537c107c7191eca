"""The end of a run: a file that says it was reached.

At the last step a checkpoint is saved. Then come the last pictures, figures, tables and the model. A run is finished when all of
them are there.
"""

import json
from pathlib import Path

from ..foundation.atomic import replacing

FINISHED = "finished.json"  # {"step", "images"}, in the run folder; the last file that a training writes


def is_finished(folder: Path, step: int) -> bool:
    """Whether a training came to its end at this step."""
    return _read(folder).get("step") == step


def is_finished_early(folder: Path, step: int) -> bool:
    """Whether it came to its end at this step because an EarlyStopping ended it."""
    return is_finished(folder, step) and bool(_read(folder).get("early"))


def mark_finished(folder: Path, step: int, images: int, *, early: bool = False) -> None:
    """Say that the training came to its end; `early` if an EarlyStopping ended it."""
    record = {"step": step, "images": images} | ({"early": True} if early else {})
    with replacing(folder / FINISHED) as temporary:
        temporary.write_text(json.dumps(record))


def _read(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / FINISHED).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def mark_unfinished(folder: Path) -> None:
    """Before a training continues."""
    (folder / FINISHED).unlink(missing_ok=True)
