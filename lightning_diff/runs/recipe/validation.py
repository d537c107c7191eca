"""Whether a recipe is right: every node is imported and bound before anything is built."""

import importlib.util
import sys
from pathlib import Path
from typing import Literal

from ...foundation.binding import Node, bind
from ...foundation.errors import UserError
from ...foundation.source_check import refuse_by_source
from .record import Recipe, naming

FACTS = ("shape", "num_classes", "sigma_data", "augment_dim")  # of the data, filled in under `model`

# The classes of a recipe's parts, by the names under which their subclasses' files know them.
DATA = ("lightning_diff.data.Data", "lightning_diff.data.source.Data")
MODULE = ("lightning.LightningModule", "lightning.pytorch.LightningModule")
CALLBACK = (
    "lightning.Callback",
    "lightning.pytorch.Callback",
    "lightning.pytorch.callbacks.Callback",
    "lightning.pytorch.callbacks.callback.Callback",
)

_STEPS = "training is counted in optimiser steps; set trainer.max_steps"
_STREAM = "the stream of examples is addressed by position and does not change"
MANAGED = {
    "callbacks": "callbacks are listed under the recipe's own key callbacks",
    "default_root_dir": "the run folder is runs_dir/name",
    "enable_checkpointing": "checkpoints are written by lightning_diff.callbacks.Checkpoint",
    "enable_progress_bar": "progress is shown by lightning_diff.callbacks.Progress",
    "enable_model_summary": "the number of parameters is printed in any case",
    "max_epochs": _STEPS,
    "min_epochs": _STEPS,
    "limit_train_batches": _STEPS,
    "fast_dev_run": "a quick try is trainer.max_steps=3",
    "barebones": "it would switch off the callbacks that a run needs",
    "num_sanity_val_steps": "there is no validation loop to try",
    "use_distributed_sampler": _STREAM,
    "overfit_batches": _STREAM,
    "reload_dataloaders_every_n_epochs": _STREAM,
}


def check(recipe: Recipe, source: Path | str) -> None:
    """Import and bind every node; see `binding.bind`. UserError with file, dotted key and the nearest valid name."""
    with naming(source):
        _check_names(recipe)
        for key, node in (("model", recipe["model"]), ("data", recipe["data"])):
            if node is None:
                raise UserError(f"{key}: missing; a recipe needs it")
        _check_sources(recipe)
        from lightning.pytorch import Callback, LightningModule  # 4 s

        from ...data import Data

        bind(recipe["data"], Data, "data")
        bind(recipe["model"], LightningModule, "model", FACTS)
        bind(recipe["callbacks"], list[Callback], "callbacks")
        _check_trainer(recipe["trainer"])


def _check_sources(recipe: Recipe) -> None:
    """What the classes' files tell without being imported, which is the most of what is misspelt; see `refuse_by_source`."""
    if "lightning" in sys.modules:  # the classes themselves can be asked at once
        return
    refuse_by_source(recipe["data"], "data", DATA)
    refuse_by_source(recipe["model"], "model", MODULE, FACTS)
    refuse_by_source(recipe["callbacks"], "callbacks", CALLBACK)
    if isinstance(recipe["trainer"], dict) and not recipe["trainer"].keys() & MANAGED.keys():
        options = {name: value for name, value in recipe["trainer"].items() if name != "logger"}
        refuse_by_source({"_target_": "lightning.Trainer", **options}, "trainer")


def _check_names(recipe: Recipe) -> None:
    bind(recipe["name"], str, "name")
    bind(recipe["seed"], int, "seed")
    if "generator" in recipe:
        bind(recipe["generator"], Literal[1, 2], "generator")
    bind(recipe["runs_dir"], str, "runs_dir")
    bind(recipe["resume"], str, "resume")
    if Path(recipe["name"]).name != recipe["name"] or recipe["name"] in ("", ".."):
        raise UserError(f"name: {recipe['name']!r} is not the name of a folder")
    if recipe["seed"] < 0:
        raise UserError(f"seed: expected a number of at least 0, got {recipe['seed']}")


def _check_trainer(trainer: Node) -> None:
    """What Lightning's Trainer takes, less what a run decides itself, plus the names of loggers."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import Logger

    bind(trainer, Node, "trainer")
    for name, reason in MANAGED.items():
        if name in trainer:
            raise UserError(f"trainer.{name}: not for a recipe to set: {reason}")
    name_of = Literal["tensorboard", "wandb"]
    logger = bind(trainer.get("logger"), name_of | Logger | bool | list[name_of | Logger] | None, "trainer.logger")
    for name in logger if isinstance(logger, list) else [logger]:
        if isinstance(name, str) and importlib.util.find_spec(name) is None:
            raise UserError(f"trainer.logger: {name} is not installed; pip install 'lightning_diff[{name}]'")
    options = {name: value for name, value in trainer.items() if name != "logger"}
    bind({"_target_": "lightning.Trainer", **options}, Trainer, "trainer")
    if not isinstance(options.get("max_steps"), int) or options["max_steps"] < 1:
        raise UserError("trainer.max_steps: the number of optimiser steps, a positive integer, is missing")
    for name in ("accumulate_grad_batches", "log_every_n_steps"):
        if (number := options.get(name)) is not None and number < 1:
            raise UserError(f"trainer.{name}: expected at least 1, got {number}")
    if (limit := options.get("gradient_clip_val")) is not None and limit < 0:  # it would turn the gradient round
        raise UserError(f"trainer.gradient_clip_val: expected at least 0, got {limit}")
