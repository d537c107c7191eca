"""From a recipe to what trains: data, training module, callbacks, loggers, Trainer."""

import logging
from contextlib import suppress
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..artifacts.checkpoints.io import CheckpointFiles
from ..artifacts.metrics_table import MetricsTable
from ..callbacks import EMA, Checkpoint, FiniteGuard, Progress, RunRecord, Throughput, TimeLimit
from ..callbacks.base import PeriodicCallback
from ..callbacks.several import refuse_clashes
from ..data import Data, Facts, Positions
from ..foundation import rng
from ..foundation.errors import UserError
from ..modules import TrainingModule
from ..modules import lightning_internals as internals
from ..modules.sharding import GATHERED, ShardedStrategy
from . import recipe
from .folder import folder_of
from .launch import choose_environment, settle
from .loggers import loggers
from .recipe import Node, Recipe

# What of Lightning's says what it was brought to say by its log, where nothing else is heard.
REPORTING = ("lightning.pytorch.callbacks.model_summary", "lightning.pytorch.profilers.profiler")
DEFAULT_CALLBACKS = (FiniteGuard, Throughput, Progress, Checkpoint)


def build_data(settings: Recipe, source: Path | str | None = None) -> Data:
    """The data of a recipe, loaded."""
    data: Data = recipe.build(settings["data"], "data", source)
    return set_up(data, source)


def build_images(settings: Recipe, source: Path | str | None = None) -> Data:
    """What figures are measured against: the data of a recipe, of latents their images, which needs no latents; loaded."""
    data: Data = recipe.build(settings["data"], "data", source)
    return set_up(data.pictured, source)


def set_up(data: Data, source: Path | str | None) -> Data:
    """The same data, loaded. UserError, with the recipe's name in front, where they cannot be."""
    try:
        data.setup()
    except UserError as error:
        raise type(error)(f"{source}: data: {error}" if source else str(error)) from error
    return data


def build_model(model: Node, source: Path | str | None = None, *, on_meta: bool = False) -> LightningModule:
    """The training module of a recipe's `model` node; its network without memory for the weights if `on_meta`."""
    if on_meta and recipe.is_node(model.get("net")):
        # Raised where a network looks at values while it is being built; it is then built with them.
        with suppress(RuntimeError), torch.device("meta"):
            model = model | {"net": recipe.build(model["net"], "model.net", source)}
    module: LightningModule = recipe.build(model, "model", source)
    return module


def build(
    settings: Recipe, facts: Facts, source: Path | str, *, on_meta: bool = False
) -> tuple[LightningModule, Trainer]:
    """The training module and its Trainer; nothing is written yet.

    Args:
        settings: with the facts of the data filled in.
        facts: those.
        source: the recipe's file, for messages.
        on_meta: give the network no memory for its weights.

    Raises:
        UserError: what a recipe asks for cannot be had, here or at all.
    """
    options = recipe.build(settings["trainer"], "trainer", source)
    if options.get("strategy") == "model_parallel":
        options["strategy"] = ShardedStrategy()
    record = RunRecord(settings["model"].get("net"), facts["shape"], facts["num_classes"], dict(settings))
    callbacks = in_order(recipe.build(settings["callbacks"], "callbacks", source), record)
    with recipe.naming(source):
        refuse_clashes(callbacks)
    trainer = _trainer(options, callbacks, folder_of(settings), source)
    _refuse_other_parts(trainer, source)
    # The first process's weights are those of a plain run; the others receive their rows of them.
    on_meta = on_meta or (isinstance(options.get("strategy"), ShardedStrategy) and not trainer.is_global_zero)
    torch.manual_seed(rng.key(settings["seed"], "init"))
    rng.seed_generator(torch.default_generator, recipe.seed_of(settings), "init")
    module = build_model(settings["model"], source, on_meta=on_meta)
    with recipe.naming(source):
        recipe.check_module(module)
    if isinstance(module, TrainingModule):
        with recipe.naming(source):
            module.refuse_unfit_network(facts["shape"], trainer.strategy.root_device)
    try:  # before the devices are started
        Positions(
            settings["data"]["batch_size"], world=trainer.world_size, accumulation=trainer.accumulate_grad_batches
        )
    except UserError as error:
        raise UserError(f"{source}: data.{error}") from error
    return module, trainer


def _trainer(options: Node, callbacks: list[Callback], folder: Path, source: Path | str) -> Trainer:
    logger, max_time = options.pop("logger", None), options.pop("max_time", None)
    if torch.backends.mps.is_available():  # which has no float64, and noise levels and what learns from losses are that
        if options.get("accelerator") == "mps":
            raise UserError(f"{source}: trainer.accelerator: mps has no float64, which training needs; leave it out")
        if options.get("accelerator") in (None, "auto", "gpu"):
            options["accelerator"] = "cpu"
    try:
        if max_time is not None:
            callbacks = [*callbacks, TimeLimit(max_time)]
        choose_environment(options)
        trainer = Trainer(
            max_epochs=-1,
            callbacks=callbacks,
            logger=[MetricsTable(folder / "metrics.csv"), *loggers(logger, folder)],
            default_root_dir=folder,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            **options,
        )
        settle(trainer)
    except (
        MisconfigurationException,
        ValueError,
        TypeError,
        RuntimeError,
        ImportError,
    ) as error:  # Lightning's refusals
        raise UserError(f"{source}: trainer: {str(error).splitlines()[0]}") from error
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    for name in REPORTING:
        logging.getLogger(name).setLevel(logging.INFO)
    trainer.strategy.checkpoint_io = CheckpointFiles()
    return trainer


def _refuse_other_parts(trainer: Trainer, source: Path | str) -> None:
    """Before the run folder is touched: what is of Lightning's and does not work here, whoever made it."""
    strategy = trainer.strategy
    parts = [
        *(("callbacks", callback) for callback in internals.callbacks(trainer)),
        *(("trainer.logger", logger) for logger in trainer.loggers),
        ("trainer.strategy", strategy),
        ("trainer.precision", trainer.precision_plugin),
        ("trainer.profiler", internals.profiler(trainer)),
    ]
    with recipe.naming(source):
        recipe.check_built(parts)
        if isinstance(strategy, ShardedStrategy) and trainer.precision not in GATHERED:
            raise UserError(
                f"trainer.precision: {trainer.precision} does not go with shards; use one of {', '.join(GATHERED)}"
            )


def in_order(chosen: list[Callback], record: RunRecord) -> list[Callback]:
    """The guard before everything that would take in a bad step, averages before what shows them, then the run's record.

    What acts every so often comes last: the state of the run is then whole, and at the end the model is written before figures.
    """
    defaults = [kind() for kind in DEFAULT_CALLBACKS if not any(isinstance(callback, kind) for callback in chosen)]
    everything = [*chosen, record, *defaults]
    first = (FiniteGuard, EMA, RunRecord)
    return sorted(
        everything,
        key=lambda callback: [
            *(not isinstance(callback, kind) for kind in first),
            isinstance(callback, PeriodicCallback),
        ],
    )
