"""What is relied on of Lightning without its promise: private attributes, undeclared ones, and habits that no page states.

Each has one function here, whose docstring says what is relied on, and one test (tests/modules/test_lightning_internals.py), which
also says with which versions. A version of Lightning that changes any of it fails there first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from subprocess import Popen
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.data_connector import _DataHookSelector
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

TRIED = ("2.6.4", "2.6.6")  # the first and the last version with which the tests have passed

State = dict[str, Any]  # what a checkpoint holds: plain containers, numbers and tensors


def datamodule(trainer: Trainer) -> LightningDataModule:
    """`trainer.datamodule`, which the Trainer sets in `fit` and does not declare."""
    return cast(LightningDataModule, trainer.datamodule)  # type: ignore[attr-defined]


def given(trainer: Trainer) -> object:
    """What `fit` was given to train on: a datamodule, a loader, or the module itself where it was given none.

    Relied on: `fit_loop._data_source.instance`, set before the module's first hook, `configure_callbacks`.
    """
    return trainer.fit_loop._data_source.instance


def train_on(trainer: Trainer, module: LightningModule, source: LightningDataModule) -> None:
    """Put a datamodule in the place of what `fit` was given to train on, as `fit` itself would; a loader to validate with stays.

    Relied on: besides, the validation loop's `_data_source`, and the `_datahook_selector` of `_data_connector`, which knows whose
    hooks prepare a batch.
    """
    validation = trainer.fit_loop.epoch_loop.val_loop._data_source
    if validation.instance is trainer.fit_loop._data_source.instance and not validation.is_module():
        validation.instance = source
    trainer.fit_loop._data_source.instance = source
    trainer._data_connector._datahook_selector = _DataHookSelector(module, source)
    trainer.datamodule, source.trainer = source, trainer  # type: ignore[attr-defined]


def callbacks(trainer: Trainer) -> list[Callback]:
    """`trainer.callbacks`, which the Trainer has from the start and does not declare."""
    return cast("list[Callback]", trainer.callbacks)  # type: ignore[attr-defined]


def log_every_n_steps(trainer: Trainer) -> int:
    """`trainer.log_every_n_steps`, which the Trainer has from the start and does not declare."""
    return cast(int, trainer.log_every_n_steps)  # type: ignore[attr-defined]


def profiler(trainer: Trainer) -> object:
    """`trainer.profiler`, which the Trainer has from the start and does not declare."""
    return cast(object, trainer.profiler)  # type: ignore[attr-defined]


def show_metrics(trainer: Trainer, values: Mapping[str, int | float]) -> None:
    """Add to `trainer.callback_metrics`: what it gives is the dictionary itself, no copy, and keeps what is put in."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})


def act_on_validation(trainer: Trainer) -> None:
    """Let Lightning's EarlyStopping and ModelCheckpoint wait for validations, not for the end of an epoch.

    Relied on: the private `_check_on_train_epoch_end` of the one and `_save_on_train_epoch_end` of the other, their arguments
    without the underscore, decide that.
    """
    for callback in callbacks(trainer):
        if isinstance(callback, EarlyStopping):
            callback._check_on_train_epoch_end = False
        elif isinstance(callback, ModelCheckpoint):
            callback._save_on_train_epoch_end = False


def tell_of_validation(trainer: Trainer, module: LightningModule, names: Collection[str]) -> None:
    """Those of them that watch one of these figures act now, by their public hook `on_validation_end`."""
    for callback in callbacks(trainer):
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor in names:
            callback.on_validation_end(trainer, module)


def has_early_stopping(trainer: Trainer) -> bool:
    """Whether an EarlyStopping may end the training."""
    return any(isinstance(callback, EarlyStopping) for callback in callbacks(trainer))


def early_stop(trainer: Trainer) -> str | None:
    """Why an EarlyStopping ended the training, or would have before it was interrupted; None if none did.

    Relied on: its public attribute `stopping_reason`, kept in checkpoints since 2.6, and its name for none.
    """
    for callback in callbacks(trainer):
        if isinstance(callback, EarlyStopping) and callback.stopping_reason.name != "NOT_STOPPED":
            best = float(callback.best_score)
            return f"EarlyStopping: {callback.monitor} did not improve on {best:.4g} for {callback.wait_count} measurements"
    return None


def unwritten_metrics(trainer: Trainer) -> dict[str, float]:
    """What `self.log` was given in this step and no logger has yet: they are handed it when all callbacks have ended the step.

    Relied on: `_results`, None outside the loops, and of `_logger_connector` `should_update_logs` and `metrics["log"]`.
    """
    connector = trainer._logger_connector
    if trainer._results is None or not connector.should_update_logs or is_between_batches(trainer):
        return {}
    return {name: float(value) for name, value in connector.metrics["log"].items()}


def is_between_batches(trainer: Trainer) -> bool:
    """Whether the last micro-batch is done with, logged and counted, and the next one not begun.

    Relied on: `fit_loop.epoch_loop.batch_progress.current`, whose `completed` follows `ready` after `on_train_batch_end`.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    return progress.completed == progress.ready


def is_between_steps(trainer: Trainer) -> bool:
    """The same of the optimiser step: no micro-batch has been added to the next one."""
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    return is_between_batches(trainer) and progress.ready % trainer.accumulate_grad_batches == 0


def count_as_at_step_end(checkpoint: State) -> None:
    """Let the counts of a checkpoint from between two batches be those of one from `on_train_batch_end` of the first.

    From these Lightning resumes exactly: it adds one to `completed`, and to the `_batches_that_stepped` by which it numbers what
    `self.log` was given; to the latter from others too, though it was counted already.
    """
    loops = checkpoint["loops"]["fit_loop"]
    progress = loops["epoch_loop.batch_progress"]
    if progress["current"]["completed"] and progress["current"]["completed"] == progress["current"]["ready"]:
        progress["current"]["completed"] -= 1
        progress["total"]["completed"] -= 1
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep Lightning from handling signals: its handler for SIGTERM waits for all processes, whatever they are doing.

    Relied on: the Trainer's `_signal_connector.register_signal_handlers`, called at the start of `fit`.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def devices_and_nodes(options: Mapping[str, Any]) -> tuple[int, int]:
    """Processes on each machine, and machines, that a Trainer with these options has: `num_devices` and `num_nodes`.

    Only another Trainer can resolve `devices: auto`; an environment is given to it, so that it asks for none.
    """
    chosen = {name: options[name] for name in ("accelerator", "devices", "num_nodes") if options.get(name) is not None}
    scout = Trainer(
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **chosen,
    )
    return scout.num_devices, scout.num_nodes


def say_rank(trainer: Trainer) -> None:
    """Tell Lightning's `rank_zero_only` what the Trainer says; it goes by RANK, LOCAL_RANK and SLURM_PROCID alone."""
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]


class _Launcher(_SubprocessScriptLauncher):
    marking: Callable[[], AbstractContextManager[None]]
    look_after: Callable[[Sequence["Popen[bytes]"]], None]

    def _call_children_scripts(self) -> None:
        with self.marking():
            super()._call_children_scripts()
        children, self.procs = self.procs, []  # or Lightning's own thread would kill this process without a word
        self.look_after(children)


def start_with(
    trainer: Trainer,
    marking: Callable[[], AbstractContextManager[None]],
    look_after: Callable[[Sequence["Popen[bytes]"]], None],
) -> None:
    """Let the launcher that runs the command again for each further process do so inside `marking`, and hand them over.

    Relied on: the private `_SubprocessScriptLauncher`, which starts them in `_call_children_scripts`, keeps them in `procs`, and
    watches over what it finds there afterwards.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.__class__ = _Launcher
        launcher.marking, launcher.look_after = marking, look_after  # type: ignore[attr-defined]


def micro_batch_loss(loss: Tensor, trainer: Trainer) -> Tensor:
    """The loss that `training_step` returned, from a callback's `outputs["loss"]`, which is divided by the accumulation steps."""
    return loss.detach() * trainer.accumulate_grad_batches


def start_at_whole_step(checkpoint: State, accumulate_grad_batches: int) -> None:
    """Let a checkpoint's count of micro-batches mark the start of an optimiser step.

    Lightning counts micro-batches in a checkpoint's loops, fit_loop, epoch_loop.batch_progress, current, and steps where their
    number is a multiple of `accumulate_grad_batches`. If that has changed since the checkpoint was saved, so must the count.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    shift = checkpoint["global_step"] * accumulate_grad_batches - progress["ready"]
    progress.update({name: progress[name] + shift for name in ("ready", "started", "processed", "completed")})


def unscale_gradients(trainer: Trainer, optimizer: torch.optim.Optimizer) -> None:
    """Under fp16, divide the gradients by the loss's scale, if that is left to a fused optimiser's own step.

    Relied on: the precision plugin's GradScaler is `scaler`; Lightning unscales by itself before gradients are clipped, except for
    optimisers with `_step_supports_amp_scaling`, for which clipping by norm is otherwise refused.
    """
    if (scaler := grad_scaler(trainer)) is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)


def grad_scaler(trainer: Trainer) -> torch.amp.GradScaler | None:
    """Under fp16, what scales the loss and passes over steps whose gradients are not finite: the precision plugin's `scaler`."""
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler


def loss_scale(scaler: torch.amp.GradScaler, device: torch.device) -> Tensor:
    """() on the device, a copy: the scale as it is now, without waiting for the device as `get_scale` does.

    Relied on: `_scale`, None before the first loss; a step that is passed over lowers it, in place.
    """
    scale = scaler._scale
    return torch.tensor(scaler._init_scale, device=device) if scale is None else scale.detach().clone()


def process_start(strategy: object) -> str | None:
    """How a strategy starts its processes, `popen` or a method of multiprocessing: DDPStrategy's `_start_method`."""
    return cast("str | None", getattr(strategy, "_start_method", None))


def state_of_its_own(strategy: object) -> str | None:
    """An argument of DDPStrategy whose state no checkpoint holds, if it was given: its attribute has a `_` before its name."""
    names = ("model_averaging_period", "ddp_comm_state")
    return next((name for name in names if getattr(strategy, f"_{name}", None) is not None), None)


def expect_unused_weights(strategy: object) -> None:
    """Let DDP wait for no gradient of weights that a step does not use: of a network and its critic, the other's.

    Relied on: DDPStrategy hands its `_ddp_kwargs` to torch's DistributedDataParallel after `configure_model`.
    """
    if isinstance(strategy, DDPStrategy):
        strategy._ddp_kwargs["find_unused_parameters"] = True


def shard_over_all_processes(strategy: ModelParallelStrategy, processes: int) -> None:
    """Before `setup_environment`: the size of the mesh is `_data_parallel_size`, whose "auto" is the number of nodes."""
    strategy._data_parallel_size = processes


class _LoopWithoutSteps(_FitLoop):
    @property
    def skip(self) -> bool:
        return False


def fit_without_steps(trainer: Trainer) -> None:
    """Let `trainer.fit` do what comes before and after the steps where there is no step to do.

    Lightning leaves such a training before any hook, by the property `skip` of the private `_FitLoop`; it takes another fit loop
    in its place, with the same `epoch_loop`.
    """
    loop = _LoopWithoutSteps(trainer, trainer.fit_loop.min_epochs, trainer.fit_loop.max_epochs)
    loop.epoch_loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop = loop
