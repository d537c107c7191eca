"""Whether a run may resume from what its folder holds, and from where."""

import os
from pathlib import Path
from typing import NamedTuple, cast

import torch
from lightning.pytorch import LightningModule

from ..artifacts import checkpoints
from ..foundation.errors import UserError
from ..modules.base import CountedModule
from ..modules.pretrained import PARAMETRISATION
from . import recipe
from .recipe import Change, Recipe
from .resume_rules import comparable, split

WORDS = ("auto", "required", "force")


class Start(NamedTuple):
    """Where a run starts: a checkpoint and its step, and what there is to say about it; None and 0 for a new run."""

    checkpoint: Path | None = None
    step: int = 0
    remarks: tuple[str, ...] = ()


def find_start(folder: Path, settings: Recipe) -> Start:
    """What `settings["resume"]` comes to: auto, required, force, never or the path of a checkpoint.

    auto      continue from the newest undamaged checkpoint in the run folder, if there is one
    required  the same, and refuse to start a new run
    force     the same as auto, even if keys have changed that decide what is trained
    never     a new run; an earlier one in the folder is moved away, not deleted
    PATH      continue from this one, whatever its recipe

    When a scheduler starts a job again, never and PATH mean auto: the job resumes from where it was.

    Args:
        folder: the run's.
        settings: the recipe with the facts of the data filled in.

    Raises:
        UserError: there is no such checkpoint, or it is of another recipe.
    """
    choice = settings["resume"]
    if _is_restart() and any((folder / "checkpoints").glob(checkpoints.PATTERN)):
        # The first start did what they say.
        choice = "auto" if choice == "never" or choice not in WORDS else choice
    path = _checkpoint(folder, choice)
    if path is None:
        return Start()
    try:
        state = checkpoints.read(path)
    except UserError as error:
        raise UserError(f"resume: {error}") from error
    before = cast(Recipe | None, state["recipe"]) or _recipe_beside(path)
    harmless, decisive = ([], []) if before is None else compare(before, _on_generator_of(before, settings))
    if decisive and choice in ("auto", "required"):
        raise UserError(
            f"{folder}: holds a run of another recipe ({'; '.join(map(str, decisive))}); choose another name, "
            "resume=force to resume all the same, or resume=never"
        )
    return Start(path, state["global_step"], tuple(f"changed: {change}" for change in [*decisive, *harmless]))


def refuse_unfit(module: LightningModule, start: Start, settings: Recipe, device: torch.device) -> None:
    """Before the folder is touched: UserError for an optimiser that takes no step, or does not fit the checkpoint, for a
    checkpoint of another network, and for weights to start from that are.

    With force or a path the optimiser's state then starts anew, which the module says when it is loaded.

    Args:
        module: what is to be trained.
        start: as `find_start` gives it.
        settings: the recipe.
        device: that trains.
    """
    if not isinstance(module, CountedModule):
        return
    module.begin(resumes=start.checkpoint is not None)
    module.refuse_optimizer(device)
    if start.checkpoint is None:
        return
    try:
        reason = module.optimizer_misfit(checkpoints.read(start.checkpoint))
    except UserError as error:
        raise UserError(f"resume: {start.checkpoint}: {error}") from error
    if reason is not None and settings["resume"] in ("auto", "required"):
        raise UserError(f"resume: {start.checkpoint}: {reason}; resume=force starts the optimiser's state anew")


def keep_network(folder: Path, settings: Recipe) -> Recipe:
    """The recipe of a run that will resume, with what the run took of the network from `model.start`, which may be gone since."""
    model, file = settings["model"], folder / recipe.SAVED
    if settings["resume"] == "never" or not isinstance(model, dict) or model.get("start") is None:
        return settings
    if not file.is_file() or not any((folder / "checkpoints").glob(checkpoints.PATTERN)):
        return settings
    before = recipe.read_yaml(file).get("model")
    if not isinstance(before, dict) or before.get("start") != model["start"] or not recipe.is_node(before.get("net")):
        return settings
    net = model.get("net")
    known = {name: before[name] for name in (*PARAMETRISATION, "bounds") if name in before}
    return settings | {"model": known | model | {"net": net if recipe.is_node(net) else before["net"] | (net or {})}}


def compare(before: Recipe, after: Recipe) -> tuple[list[Change], list[Change]]:
    """Differences of two recipes that leave what is trained as it is, and the others."""
    return split(recipe.changes(comparable(before), comparable(after)), before, after)


def _on_generator_of(before: Recipe, settings: Recipe) -> Recipe:
    """A recipe that names no generator stays on the one of the run that it resumes."""
    return cast(Recipe, {"generator": before["generator"], **settings})


def _checkpoint(folder: Path, choice: str) -> Path | None:
    """The checkpoint that a word or a path means; None to start at step 0."""
    if choice == "never":
        return None
    if choice in WORDS:
        path = checkpoints.newest(folder / "checkpoints")
        if path is None and choice == "required":
            raise UserError(f"resume: no usable checkpoint in {folder / 'checkpoints'}; resume=auto starts a new run")
        return path
    path = Path(choice)
    if not path.exists():
        raise UserError(f"resume: {path} is not a checkpoint file; give one, or auto, required, force or never")
    if path.with_suffix(".json").exists() and (problem := checkpoints.fault(path)) is not None:
        raise UserError(f"resume: {path}: is damaged: {problem}")
    return path


def _is_restart() -> bool:
    counts = [os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
    return any(count.isdigit() and int(count) > 0 for count in counts)


def _recipe_beside(path: Path) -> Recipe | None:
    """Checkpoints of format 1 did not hold their recipe; their run folders do."""
    file = path.parent.parent / "recipe.yaml"
    return cast(Recipe, {"generator": 1, **recipe.read_yaml(file)}) if file.is_file() else None
