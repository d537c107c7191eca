"""A run in words before it starts: its recipe, its steps, its memory."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

import torch
from lightning.pytorch import LightningModule, Trainer

from ..callbacks import Checkpoint
from ..callbacks.ema import find as find_ema
from ..data import Data, Facts
from ..foundation.errors import NotHereError, UserError
from ..modules import ConsistencyModule, TrainingModule
from ..modules.base import CountedModule
from ..modules.sharding import ShardedStrategy
from . import emphasis, memory, recipe
from .build import build, build_data
from .console import quieten
from .door import refuse_unfit_parts
from .folder import folder_of
from .rates import doubts, learning_rates
from .recipe import Recipe


def describe(settings: Recipe, source: Path | str) -> str:
    """The resolved recipe and what follows from it, without training: what `--dry-run` prints."""
    quieten()
    facts, remark, data = known_facts(settings, source)
    settings = recipe.fill_facts(settings, facts)
    module, trainer = build(settings, facts, source, on_meta=True)
    if data is not None:
        refuse_unfit_parts(module, trainer, data, source)
    if isinstance(module, CountedModule):
        is_empty = any(weight.is_meta for weight in module.parameters())
        module.begin(resumes=False, **({"described": True} if is_empty else {}))
    batch = settings["data"]["batch_size"]
    lines = [
        remark,
        summary(settings, module, trainer),
        learning_rates(module, trainer, batch),
        _critic(module, batch),
        _levels(module),
        *doubts(module, trainer, batch),
        _memory(settings, facts["shape"], module, trainer),
    ]
    return f"{recipe.to_yaml(settings)}\n{indent(chr(10).join(line for line in lines if line), '# ')}"


def known_facts(settings: Recipe, source: Path | str) -> tuple[Facts, str, Data | None]:
    """The facts of the data, these in a line, and the data; where they are not here the recipe's own facts, and the reason."""
    try:
        data = build_data(settings, source)
        return data.facts(), data.summary(), data
    except UserError as error:
        model, net = settings["model"], settings["model"].get("net") or {}
        if not ({"shape", "num_classes"} <= net.keys() and "sigma_data" in model):
            if not isinstance(error, NotHereError):  # but here, and not right: they have to be mended in any case
                raise
            raise UserError(
                f"{error}; with model.net.shape, model.net.num_classes and model.sigma_data it could be described without"
            ) from error
        augment = recipe.build(settings["data"], "data", source).augment
        facts = Facts(
            shape=tuple(net["shape"]),
            num_classes=net["num_classes"],
            class_names=(),
            condition_shapes=net.get("condition_shapes") or {},
            sigma_data=model["sigma_data"],
            augment_dim=augment.dim if augment else 0,
        )
        return facts, f"{error}: described by the recipe's own facts", None


def summary(settings: Recipe, module: LightningModule, trainer: Trainer) -> str:
    """Three lines: the model and where it trains, what a step is, how many there are and what is saved."""
    batch, accumulation, world = settings["data"]["batch_size"], trainer.accumulate_grad_batches, trainer.world_size
    parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    images = batch * trainer.max_steps
    saver = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoint))  # type: ignore[attr-defined]
    saves = "at the end" if saver.every_images is None else f"{images // saver.every_images} by images"
    if saver.every_minutes is not None:
        saves += f" and every {saver.every_minutes:g} minutes"
    return (
        f"{settings['name']}: {parameters:,} parameters, precision {trainer.precision}, on {trainer.strategy.root_device.type}\n"
        f"{batch} images per step = {world} process{'es' if world > 1 else ''}"
        f" x {batch // (world * accumulation)} images x {accumulation} accumulated\n"
        f"{trainer.max_steps:,} steps = {images:,} images; checkpoints {saves}, "
        f"the newest {saver.keep} kept in {folder_of(settings)}"
    )


def _critic(module: LightningModule, batch: int) -> str:
    return module.critic.summary(batch) if isinstance(module, ConsistencyModule) and module.critic is not None else ""


def _levels(module: LightningModule) -> str:
    """Which noise levels are trained, as bars; nothing of a module without a law of them."""
    if not isinstance(module, TrainingModule):
        return ""
    return emphasis.lines(emphasis.emphasis(module), module.denoiser.sigma_data)


def _memory(settings: Recipe, shape: Sequence[int], module: LightningModule, trainer: Trainer) -> str:
    world, ema = trainer.world_size, find_ema(trainer)
    images = settings["data"]["batch_size"] // (world * trainer.accumulate_grad_batches)
    try:
        estimate = memory.estimate(
            module,
            shape,
            images,
            accumulation=trainer.accumulate_grad_batches,
            processes=world,
            is_sharded=isinstance(trainer.strategy, ShardedStrategy),
            precision={"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(trainer.precision)),
            averages=0 if ema is None else len(ema.profiles),
        )
    except Exception as error:  # whatever a network of the user's does where tensors have no values
        return f"memory: cannot be estimated without running the network: {' '.join(str(error).split())[:200]}"
    return memory.table(estimate, world, images)
