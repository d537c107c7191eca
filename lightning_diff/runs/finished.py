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
    try:
        return bool(json.loads((folder / FINISHED).read_text())["step"] == step)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def mark_finished(folder: Path, step: int, images: int) -> None:
    """Say that the training came to its end."""
    with replacing(folder / FINISHED) as temporary:
        temporary.write_text(json.dumps({"step": step, "images": images}))


def mark_unfinished(folder: Path) -> None:
    """Before a training continues."""
    (folder / FINISHED).unlink(missing_ok=True)
