"""The end of a run: a file that says it was reached, and a way to do it again when a run was killed on the way there.

At the last step a checkpoint is saved. Then come the last pictures, figures, tables and the model. A run is finished when all of
them are there.
"""

import json
from pathlib import Path

from lightning.pytorch import Trainer

from ..callbacks import TimeLimit
from ..foundation.atomic import replacing
from ..modules.lightning_internals import callbacks, fit_without_steps

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


def end_again(trainer: Trainer) -> None:
    """Let `trainer.fit` from a checkpoint at or after max_steps do what comes before and after the steps, and no step."""
    fit_without_steps(trainer)


def early_end(trainer: Trainer) -> str:
    """Where and why a training ended before its last step."""
    limit = next((each for each in callbacks(trainer) if isinstance(each, TimeLimit) and each.is_over), None)
    why = "a callback set trainer.should_stop" if limit is None else f"trainer.max_time ({limit.seconds:g} s) is over"
    return f"stopped at step {trainer.global_step:,} of {trainer.max_steps:,}: {why}"
