"""Parts of Lightning that a recipe may name: which of them a run takes, and for the others what to take in their place.

What is not named here works, resuming included. docs/extending.md has the whole list, and tests/runs/test_lightning_parts.py a
test for each of its rows; a part that a new version of Lightning brings fails there until it has a row.
"""

import importlib.util
import inspect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ...foundation.binding import Node, is_node, locate
from ...foundation.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

_STEPS = "training is counted in optimiser steps; set trainer.max_steps"
_STREAM = "the stream of examples is addressed by position and does not change"
_VALIDATION = (
    "there is no validation loop; lightning_diff.callbacks.Validation measures the loss of held-out images, "
    "lightning_diff.callbacks.Evaluate quality"
)

MANAGED = {  # arguments of the Trainer that a run sets itself
    "callbacks": "callbacks are listed under the recipe's own key callbacks",
    "default_root_dir": "the run folder is runs_dir/name",
    "enable_checkpointing": "checkpoints are written by lightning_diff.callbacks.Checkpoint",
    "enable_progress_bar": "progress is shown by lightning_diff.callbacks.Progress, or by a progress bar among the callbacks",
    "enable_model_summary": "the number of parameters is printed in any case; more is said by ModelSummary among the callbacks",
    "max_epochs": _STEPS,
    "min_epochs": _STEPS,
    "limit_train_batches": _STEPS,
    "fast_dev_run": "a quick try is trainer.max_steps=3",
    "barebones": "it would switch off the callbacks that a run needs",
    "num_sanity_val_steps": "there is no validation loop to try",
    "limit_val_batches": _VALIDATION,
    "limit_test_batches": _VALIDATION,
    "limit_predict_batches": _VALIDATION,
    "val_check_interval": _VALIDATION,
    "check_val_every_n_epoch": _VALIDATION,
    "inference_mode": _VALIDATION,
    "use_distributed_sampler": _STREAM,
    "overfit_batches": _STREAM,
    "reload_dataloaders_every_n_epochs": _STREAM,
    "model_registry": "the model is written into the run folder",
}

_HALF = (
    "keeps weights and noise levels in 16 bits, in which neighbouring levels become one and small updates are lost; "
    "use trainer.precision=bf16-mixed"
)
_SPAWNED = (
    "trains in copies of this process, and what they did is not there when they have ended; use trainer.strategy=ddp"
)
_SHARDED = "has checkpoints of its own kind, which do not resume exactly; use trainer.strategy=model_parallel"
_TPU = "noise levels need float64, which TPUs do not have; use trainer.accelerator=cuda or cpu"
_EPOCHS = "acts at the end of epochs, and a run has one epoch without end"
_AVERAGES = "puts averages in the place of the weights, so that a run does not resume from these; use lightning_diff.callbacks.EMA"
_SAVED = "checkpoints are written whole or not at all, by lightning_diff.callbacks.Checkpoint; leave it out"

CLASSES = {  # by name, wherever in Lightning they stand; a subclass of one is refused like it
    "BaseFinetuning": f"{_EPOCHS}; which weights train is the network's to say, by requires_grad",
    "BasePredictionWriter": "a training predicts nothing; `lightning-diff sample` draws images",
    "BatchSizeFinder": "the batch of all devices decides what is trained; set data.batch_size, and trainer.accumulate_grad_batches "
    "until it fits (`train --dry-run` says how much memory it takes)",
    "GradientAccumulationScheduler": "a step is one global batch, whatever is accumulated; set trainer.accumulate_grad_batches",
    "LearningRateFinder": "trains before the training; set model.optimizer.lr, and compare short runs by trainer.max_steps",
    "ModelPruning": f"{_EPOCHS}; prune the finished model, as lightning_diff.load_denoiser gives it",
    "OnExceptionCheckpoint": f"what is saved in the middle of a step does not resume exactly; {_SAVED}",
    "SpikeDetection": "its state does not survive a resume; use lightning_diff.callbacks.FiniteGuard and trainer.gradient_clip_val",
    "StochasticWeightAveraging": _AVERAGES,
    "WeightAveraging": _AVERAGES,
    "NeptuneLogger": "Lightning no longer supports it; use trainer.logger=tensorboard or trainer.logger=wandb",
    "FSDPStrategy": _SHARDED,
    "DeepSpeedStrategy": _SHARDED,
    "XLAStrategy": _TPU,
    "SingleDeviceXLAStrategy": _TPU,
    "HalfPrecision": _HALF,
    "TransformerEnginePrecision": _HALF,
    "BitsandbytesPrecision": "quantised weights do not train; use trainer.precision=bf16-mixed, "
    "and lightning_diff.precision to sample",
    "FSDPPrecision": _SHARDED,
    "DeepSpeedPrecision": _SHARDED,
    "XLAPrecision": _TPU,
    "XLAProfiler": _TPU,
    "CheckpointIO": _SAVED,
}
STRATEGIES = {  # by the beginning of their names
    **dict.fromkeys(("ddp_spawn", "ddp_fork", "ddp_notebook"), _SPAWNED),
    **dict.fromkeys(("fsdp", "deepspeed"), _SHARDED),
    **dict.fromkeys(("single_xla", "single_tpu", "xla"), _TPU),
}
PRECISIONS = dict.fromkeys(("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"), _HALF)
PROFILERS = {"xla": _TPU}
OURS = ("ShardedStrategy",)  # what derives from Lightning's ModelParallelStrategy and resumes

# What a run shows to Lightning's callbacks; with gradient clipping, train/grad_norm too.
NO_VALIDATION = "EarlyStopping acts after each measurement of lightning_diff.callbacks.Validation; add one"
VALIDATION = ("lightning_diff.callbacks.Validation", "lightning_diff.callbacks.validation.Validation")
MEASURED = (
    "val/loss",
    "val/loss_se",
    "val/train_loss",
    "val/train_loss_se",
    "val/gap",
    "val/gap_se",
)  # by that callback
SHOWN = ("images", "train/loss", "train/unweighted_loss", "train/learning_rate")


def refuse(kind: type, key: str) -> None:
    """UserError for a class of Lightning's, or one derived from it, that a run does not take."""
    for base in kind.__mro__:
        if base.__name__ in OURS:
            return
        if _is_lightnings(base) and (reason := CLASSES.get(base.__name__)):
            raise UserError(f"{key}: {kind.__name__}: {reason}")
        if _is_lightnings(base) and base.__name__ == "ModelParallelStrategy":
            raise UserError(f"{key}: {kind.__name__}: {_SHARDED}")
    if _is_lightnings(kind) and inspect.isabstract(kind):
        raise UserError(f"{key}: {kind.__name__}: is what others derive from; name one of these")


def check_parts(callbacks: object, trainer: object) -> None:
    """UserError for a part of Lightning's that a run does not take, with what to take in its place. Nothing is built or bound.

    Args:
        callbacks, trainer: of a recipe.
    """
    nodes = {i: node for i, node in enumerate(callbacks) if is_node(node)} if isinstance(callbacks, list) else {}
    if not isinstance(trainer, dict):
        return
    for name, reason in MANAGED.items():
        if name in trainer:
            raise UserError(f"trainer.{name}: not for a recipe to set: {reason}")
    for i, node in nodes.items():
        _refuse_node(node, f"callbacks.{i}")
    for name in ("logger", "strategy", "profiler", "plugins"):
        value = trainer.get(name)
        for part in value if isinstance(value, list) else [value]:
            _refuse_node(part, f"trainer.{name}")
    strategy = trainer.get("strategy")
    for start, reason in STRATEGIES.items():
        if isinstance(strategy, str) and strategy.startswith(start):
            raise UserError(f"trainer.strategy: {strategy}: {reason}")
    for name, refused in (("precision", PRECISIONS), ("profiler", PROFILERS)):
        if isinstance(choice := trainer.get(name), str) and choice in refused:
            raise UserError(f"trainer.{name}: {choice}: {refused[choice]}")
    for i, node in nodes.items():
        _check_arguments(node, f"callbacks.{i}", [*nodes.values()], trainer)


def check_built(parts: Iterable[tuple[str, object]]) -> None:
    """UserError for an object that a run does not take, whatever function made it.

    Args:
        parts: callbacks, loggers, strategy, and so on, each with its dotted key.
    """
    from ...modules.lightning_internals import process_start, state_of_its_own  # 4 s

    parts = list(parts)
    validates = any(type(part).__name__ == "Validation" for _, part in parts)
    for key, part in parts:
        if not validates and "EarlyStopping" in _lightnings(type(part)):
            raise UserError(f"{key}: {NO_VALIDATION}")
        refuse(type(part), key)
        if (method := process_start(part)) not in (None, "popen"):
            raise UserError(f"{key}: {type(part).__name__} by {method}: {_SPAWNED}")
        if state := state_of_its_own(part):
            raise UserError(
                f"{key}: {state}: is in no checkpoint, so that a run would not resume exactly; leave it out"
            )


def check_module(module: "LightningModule") -> None:
    """UserError for a step of a training module that would never be called."""
    from lightning.pytorch import LightningModule  # 4 s

    if type(module).validation_step is not LightningModule.validation_step:
        raise UserError(
            f"model: {type(module).__name__}.validation_step: {_VALIDATION}; a Trainer of your own calls it"
        )


def _check_arguments(node: Node, key: str, callbacks: list[Node], trainer: Node) -> None:
    """UserError for an argument of a callback that is taken otherwise."""
    bases = _bases(node)
    if "ModelCheckpoint" in bases and node.get("save_on_exception"):
        raise UserError(f"{key}.save_on_exception: {CLASSES['OnExceptionCheckpoint']}")
    if "EarlyStopping" in bases and node.get("check_on_train_epoch_end"):
        raise UserError(f"{key}.check_on_train_epoch_end: a run has one epoch without end; leave it out")
    if "EarlyStopping" in bases and not _measures(callbacks):
        raise UserError(f"{key}: {NO_VALIDATION}")
    if {"ModelCheckpoint", "EarlyStopping"} & bases:
        _check_monitor(node.get("monitor"), key, callbacks, trainer, only_measured="EarlyStopping" in bases)
    if "Timer" in bases and node.get("duration") is not None:
        raise UserError(
            f"{key}.duration: counts what earlier starts took, so that a resumed run would stop at once; set trainer.max_time, "
            "which counts from each start"
        )
    if "DeviceStatsMonitor" in bases and importlib.util.find_spec("psutil") is None:
        raise UserError(f"{key}: DeviceStatsMonitor: psutil is not installed; pip install psutil")


def _check_monitor(monitor: object, key: str, callbacks: list[Node], trainer: Node, *, only_measured: bool) -> None:
    """UserError for a figure that nothing logs, or nothing that is measured every so often."""
    shown = MEASURED if _measures(callbacks) else ()
    if not only_measured:
        shown = (*SHOWN, *(["train/grad_norm"] if trainer.get("gradient_clip_val") else []), *shown)
    if monitor is not None and monitor not in shown and (only_measured or not any(map(_is_of_the_user, callbacks))):
        raise UserError(f"{key}.monitor: nothing logs {monitor!r}; a run shows {', '.join(shown)}")


def _measures(callbacks: list[Node]) -> bool:
    return any(node["_target_"] in VALIDATION for node in callbacks)


def _refuse_node(node: object, key: str) -> None:
    if is_node(node):
        assert isinstance(node, dict)
        if isinstance(target := locate(node["_target_"], f"{key}._target_"), type):
            refuse(target, key)
        if "CSVLogger" in _bases(node) and node.get("version") is not None:
            raise UserError(
                f"{key}.version: a resumed run would delete the rows of that version; leave it out: each start then has a folder "
                "of its own, and the run folder's metrics.csv has all rows"
            )


def _bases(node: Node) -> set[str]:
    return set(_lightnings(locate(node["_target_"], "_target_")))


def _lightnings(target: object) -> Iterator[str]:
    """Names of Lightning's classes that this one is or derives from."""
    for base in target.__mro__ if isinstance(target, type) else ():
        if _is_lightnings(base):
            yield base.__name__


def _is_lightnings(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")


def _is_of_the_user(node: Node) -> bool:
    """Whether a callback may log what nobody here knows of."""
    return node["_target_"].partition(".")[0] not in ("lightning", "pytorch_lightning", "lightning_diff")
