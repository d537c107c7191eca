"""Whether a recipe is right: every node is imported and bound before anything is built."""

import sys
from pathlib import Path
from typing import Literal

from ...foundation.binding import Node, bind, refuse_unknown_arguments, signature
from ...foundation.errors import UserError
from ...foundation.source_check import refuse_by_source
from .lightning_parts import MANAGED, check_parts
from .record import Recipe, naming
from .trackers import check_loggers

FACTS = (
    "shape",
    "num_classes",
    "sigma_data",
    "augment_dim",
    "condition_shapes",
)  # of the data, filled in under `model`

TRAINER = "lightning.Trainer"
LONGEST = 200  # bytes of a run's name: most systems allow 255, and files beside the folder add to its name
# The classes of a recipe's parts, by the names under which their subclasses' files know them.
DATA = ("lightning_diff.data.Data", "lightning_diff.data.source.Data")
MODULE = ("lightning.LightningModule", "lightning.pytorch.LightningModule")
CALLBACK = (
    "lightning.Callback",
    "lightning.pytorch.Callback",
    "lightning.pytorch.callbacks.Callback",
    "lightning.pytorch.callbacks.callback.Callback",
)


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
        check_parts(recipe["callbacks"], recipe["trainer"])
        bind(recipe["trainer"], Node, "trainer")
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
        refuse_by_source({"_target_": TRAINER, **options}, "trainer", without=MANAGED)


def _check_names(recipe: Recipe) -> None:
    bind(recipe["name"], str, "name")
    bind(recipe["seed"], int, "seed")
    if "generator" in recipe:
        bind(recipe["generator"], Literal[1, 2], "generator")
    bind(recipe["runs_dir"], str, "runs_dir")
    bind(recipe["resume"], str, "resume")
    if "report" in recipe:
        bind(recipe["report"], bool, "report")
    _check_folder_name(recipe["name"])
    if recipe["seed"] < 0:
        raise UserError(f"seed: expected a number of at least 0, got {recipe['seed']}")


def _check_folder_name(name: str) -> None:
    if Path(name).name != name or name in ("", ".."):
        raise UserError(f"name: {name!r} is not the name of a folder")
    if not name.isprintable():  # a line break, or a byte that is no UTF-8: reports and logs are lines of UTF-8
        raise UserError(f"name: {name!a} holds what cannot be printed; a run's folder needs another name")
    if (size := len(name.encode())) > LONGEST:
        raise UserError(f"name: {size} bytes long; a run's folder has at most {LONGEST}")


def _check_trainer(trainer: Node) -> None:
    """What Lightning's Trainer takes, less what a run decides itself, plus the names of loggers."""
    from lightning.pytorch import Trainer

    check_loggers(trainer.get("logger"))
    options = {name: value for name, value in trainer.items() if name != "logger"}
    refuse_unknown_arguments(TRAINER, options, signature(Trainer) or {}, "trainer", without=MANAGED)
    bind({"_target_": TRAINER, **options}, Trainer, "trainer")
    if not isinstance(options.get("max_steps"), int) or options["max_steps"] < 1:
        raise UserError("trainer.max_steps: the number of optimiser steps, a positive integer, is missing")
    for name in ("accumulate_grad_batches", "log_every_n_steps"):
        if (number := options.get(name)) is not None and number < 1:
            raise UserError(f"trainer.{name}: expected at least 1, got {number}")
    if (limit := options.get("gradient_clip_val")) is not None and limit < 0:  # it would turn the gradient round
        raise UserError(f"trainer.gradient_clip_val: expected at least 0, got {limit}")
