"""Whether a run may go on from what its folder holds, and from where."""

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from ..artifacts import checkpoints
from ..foundation.errors import UserError
from . import recipe

# What may change within a run. All else decides what is trained.
HARMLESS = (
    "name",
    "runs_dir",
    "resume",
    "data.path",  # the images themselves are compared
    "data.dataset.root",
    "data.test_*",
    "data.workers",
    "model.reward.*data.*",  # the run's own, as a rule
    "model.compile",
    "model.teacher",  # its weights' hash is compared
    "model.model",  # as is this one's
    "data.model",
    "model.channels_last",
    "model.net.checkpointing",
    "callbacks.*",
    "trainer.*",
)
DECISIVE = (  # of those
    "trainer.precision",
    "trainer.gradient_clip_*",
    "trainer.plugins*",
    "trainer.sync_batchnorm",
    "callbacks.Mentor*",  # which steers
)
AVERAGE = "callbacks.EMA.profiles."
EMA_DEFAULT = {
    "_target_": "lightning_diff.ema.HalfLife",
    "images": 500_000,
}  # callbacks.EMA's, where profiles is left out
WORDS = ("auto", "required", "force")


class Start(NamedTuple):
    """Where a run starts: a checkpoint and its step, and what there is to say about it; None and 0 for a new run."""

    checkpoint: Path | None = None
    step: int = 0
    remarks: tuple[str, ...] = ()


def find_start(folder: Path, settings: Mapping[str, Any]) -> Start:
    """What `settings["resume"]` comes to: auto, required, force, never or the path of a checkpoint.

    auto      continue from the newest undamaged checkpoint in the run folder, if there is one
    required  the same, and refuse to start a new run
    force     the same as auto, even if keys have changed that decide what is trained
    never     a new run; an earlier one in the folder is moved away, not deleted
    PATH      continue from this one, whatever its recipe

    When a scheduler starts a job again, never and PATH mean auto: the job goes on from where it was.

    Args:
        folder: the run's.
        settings: the recipe with the facts of the data filled in.

    Raises:
        UserError: there is no such checkpoint, or it is of another recipe.
    """
    choice = settings["resume"]
    if _is_restart() and any((folder / "checkpoints").glob(checkpoints.PATTERN)):
        choice = (
            "auto" if choice == "never" or choice not in WORDS else choice
        )  # what it asked for was done the first time
    if choice == "never":
        return Start()
    if choice in WORDS:
        path = checkpoints.newest(folder / "checkpoints")
        if path is None:
            if choice == "required":
                raise UserError(
                    f"resume: no usable checkpoint in {folder / 'checkpoints'}; resume=auto starts a new run"
                )
            return Start()
    else:
        path = Path(choice)
        if not path.exists():
            raise UserError(f"resume: {path} is not a checkpoint file; give one, or auto, required, force or never")
        if path.with_suffix(".json").exists() and (problem := checkpoints.fault(path)) is not None:
            raise UserError(f"resume: {path}: is damaged: {problem}")
    try:
        state = checkpoints.read(path)
    except UserError as error:
        raise UserError(f"resume: {error}") from error
    before = state["recipe"] or _recipe_beside(path)
    harmless, decisive = split(recipe.changes(comparable(before), comparable(settings))) if before else ([], [])
    if decisive and choice in ("auto", "required"):
        raise UserError(
            f"{folder}: holds a run of another recipe ({'; '.join(map(str, decisive))}); choose another name, "
            "resume=force to go on all the same, or resume=never"
        )
    return Start(path, state["global_step"], tuple(f"changed: {change}" for change in [*decisive, *harmless]))


def _is_restart() -> bool:
    counts = [os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
    return any(count.isdigit() and int(count) > 0 for count in counts)


def split(changes: list[recipe.Change]) -> tuple[list[recipe.Change], list[recipe.Change]]:
    """Changes that leave what is trained as it is, and the others."""
    harmless = [change for change in changes if _is_harmless(change)]
    return harmless, [change for change in changes if change not in harmless]


def _is_harmless(change: recipe.Change) -> bool:
    if change.key.startswith(AVERAGE):  # one more or one fewer is harmless, another width under the same name is not
        is_whole = "." not in change.key.removeprefix(AVERAGE)
        return is_whole and recipe.LEFT_OUT in (change.before, change.after)
    return _matches(change.key, HARMLESS) and not _matches(change.key, DECISIVE)


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with its callbacks by class rather than by place, since their order says nothing."""
    callbacks: dict[str, Any] = {}
    for node in settings.get("callbacks") or []:
        name = node["_target_"].rpartition(".")[2]
        node = node | {"_target_": name}  # a class may be named by more than one path
        if name == "EMA":
            node = {"profiles": {"ema": EMA_DEFAULT}} | node
        while name in callbacks:
            name += "'"
        callbacks[name] = node
    return {**settings, "callbacks": callbacks}


def _recipe_beside(path: Path) -> recipe.Recipe | None:
    """Checkpoints of format 1 did not hold their recipe; their run folders do."""
    file = path.parent.parent / "recipe.yaml"
    return recipe.read_yaml(file) if file.is_file() else None


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
