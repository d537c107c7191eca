"""The training loss in the run's tables, and the finished model in its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict, cast

import torch
from lightning.pytorch import LightningModule, Trainer

from ..artifacts import checkpoints, events, save_denoiser
from ..artifacts.autoencoder import node_in
from ..artifacts.metrics_table import MetricsTable
from ..data import Data
from ..foundation import rng
from ..foundation.processes import from_all
from ..modules import lightning_internals as internals
from ..modules.base import CountedModule, StepOutputs, is_of_critic
from ..modules.denoiser_module import TrainingModule
from ..modules.lightning_internals import State
from ..modules.sharding import is_sharded, whole_state
from ..modules.training_data import training_data
from .base import StepCallback
from .ema import averaged
from .finite_guard import FiniteGuard


class RunRecord(StepCallback[CountedModule]):
    """Log the mean loss, learning rate and gradient norm every `trainer.log_every_n_steps`; write the model at the end.

    Losses are summed on the device and read once for each window, so that no step waits for the device. The logged loss is the
    mean over every step, process and accumulation step of the window, but for steps that `FiniteGuard` skipped. The sums of a
    window under way are part of the checkpoint.

    Args:
        net: the recipe's node for the network, from which `model.json` lets anybody rebuild it; None writes no model.
        shape: (C, H, W) of the images.
        num_classes: number of classes, 0 for none.
        recipe: the whole recipe, for checkpoints; a changed one is then noticed on resume.
    """

    ALONE: ClassVar[str] = "write the model"

    def __init__(
        self,
        net: dict[str, Any] | None,
        shape: tuple[int, ...],
        num_classes: int = 0,
        recipe: dict[str, Any] | None = None,
    ):
        self.net, self.shape, self.num_classes, self.recipe = net, tuple(shape), num_classes, recipe
        self._trainer: Trainer | None = None
        self._window = torch.zeros(1, 3, dtype=torch.float64)  # of each process: loss, unweighted loss, micro-batches
        self._rows = 0  # of metrics.csv at the checkpoint's images
        self._unwritten: dict[str, float] = {}

    def on_run_start(self, trainer: Trainer, module: CountedModule) -> None:
        self._trainer = trainer
        if 0 < trainer.global_step < trainer.max_steps:
            events.note(trainer.default_root_dir, module.images_seen, f"resumed at step {trainer.global_step:,}")
        # The windows of as many processes as there were; with another number, the same total.
        self._sums = self._window[trainer.global_rank :: trainer.world_size].sum(0).to(module.device)
        self._step_sums = torch.zeros_like(self._sums)
        for table in _tables(trainer):
            table.go_back(module.images_seen, self._rows)
            table.images_seen = lambda: module.images_seen
            if self._unwritten:
                table.log_metrics({"images": module.images_seen} | self._unwritten, step=trainer.global_step)

    def on_micro_batch_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        if is_of_critic(outputs):
            return
        loss = internals.micro_batch_loss(outputs["loss"], trainer)
        unweighted = outputs["per_sample_loss"] * outputs.get("importance", 1.0)  # under the objective's noise law
        self._step_sums += torch.stack([loss, unweighted.mean(), torch.ones_like(loss)])

    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        for guard in internals.callbacks(trainer):
            if isinstance(guard, FiniteGuard) and guard.counted is not None:
                self._step_sums = torch.where(guard.counted, self._step_sums, 0.0)
        self._sums += self._step_sums
        self._step_sums.zero_()
        if not self.is_window_end(trainer):
            return
        sums, norm = trainer.strategy.reduce(self._sums, reduce_op="sum"), module.grad_norm
        read = sums if norm is None else torch.cat([sums, norm.to(sums)[None]])  # at once: each reading is a wait
        loss_sum, raw_sum, count, *norms = read.tolist()
        self._sums.zero_()
        values: dict[str, float] = {"images": module.images_seen}
        if count:
            values |= {"train/loss": loss_sum / count, "train/unweighted_loss": raw_sum / count}
        values["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        if norms:
            values["train/grad_norm"] = norms[0]
        self.log_row(trainer, module, values)
        internals.show_metrics(trainer, values)

    # --- checkpoints ---

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        generator = rng.generator_of(cast(CountedModule, pl_module).seed)
        checkpoints.stamp(checkpoint, None if self.recipe is None else self.recipe | {"generator": generator})

    def state_dict(self) -> State:
        assert self._trainer is not None
        images = cast(CountedModule, self._trainer.lightning_module).images_seen
        return {
            "window": from_all(self._sums[None]).cpu(),
            "rows": sum(table.rows_at(images) for table in _tables(self._trainer)),
            "unwritten": internals.unwritten_metrics(self._trainer),
        }

    def load_state_dict(self, state_dict: State) -> None:
        self._window, self._rows = state_dict["window"], state_dict["rows"]
        self._unwritten = state_dict["unwritten"]

    def on_run_end(self, trainer: Trainer, module: CountedModule) -> None:
        is_first = trainer.is_global_zero
        if self.net is None:
            return
        assert isinstance(module, TrainingModule)
        if not (is_first or is_sharded(module.denoiser.net)):
            return
        with averaged(trainer, module) as profile:
            weights = whole_state(module.denoiser.net, keep=is_first)
        if is_first:
            save_denoiser(
                Path(trainer.default_root_dir),
                module.denoiser,
                self.net,
                weights=weights,
                shape=self.shape,
                num_classes=self.num_classes,
                class_names=training_data(trainer).data.class_names,
                ema=profile or "none",
                images=module.images_seen,
                trained_with=module.trained_with(training_data(trainer).data.augment),
                **_text(training_data(trainer).data),
                autoencoder=self._autoencoder(training_data(trainer).data),
            )

    def _autoencoder(self, data: Data) -> dict[str, Any] | None:
        """The recipe's node of what makes images of the model's samples."""
        if data.autoencoder is None or self.recipe is None:
            return None
        return node_in(self.recipe["data"])


class _Text(TypedDict):
    """What a model's record says of prompts."""

    text: dict[str, Any] | None
    prompts: Sequence[str]
    prompt_labels: Sequence[int]


def _text(data: Data) -> _Text:
    encoder, told = data.text, data.prompts
    return _Text(
        text=None if encoder is None else encoder.node(),
        prompts=() if told is None else told.texts,
        prompt_labels=(told.labels if told is not None else None) or (),
    )


def _tables(trainer: Trainer) -> list[MetricsTable]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsTable)]
