"""The training loss in the run's tables, and the finished model in its folder."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from ..artifacts import checkpoints, save_denoiser
from ..artifacts.metrics_table import MetricsTable
from ..foundation.processes import from_all
from ..modules.sharding import is_sharded, whole_state
from .ema import find as find_ema
from .finite_guard import FiniteGuard


class RunRecord(Callback):
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

    def __init__(
        self,
        net: dict[str, Any] | None,
        shape: tuple[int, ...],
        num_classes: int = 0,
        recipe: dict[str, Any] | None = None,
    ):
        self.net, self.shape, self.num_classes, self.recipe = net, tuple(shape), num_classes, recipe
        self._trainer: Any = None
        self._window = torch.zeros(1, 3, dtype=torch.float64)  # of each process: loss, unweighted loss, micro-batches
        self._rows = 0  # of metrics.csv at the checkpoint's images
        self._unwritten: dict[str, float] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._trainer, self._step = trainer, trainer.global_step
        # The windows of as many processes as there were; with another number, the same total.
        self._sums = self._window[trainer.global_rank :: trainer.world_size].sum(0).to(pl_module.device)
        self._step_sums = torch.zeros_like(self._sums)
        self._skipped = self._skipped_steps()
        for table in self._tables():
            table.go_back(pl_module.images_seen, self._rows)
            table.images_seen = lambda: pl_module.images_seen
            if self._unwritten:
                table.log_metrics({"images": pl_module.images_seen} | self._unwritten, step=self._step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Lightning hands over the loss divided by the number of accumulation steps.
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        unweighted = outputs["per_sample_loss"] * outputs.get("importance", 1.0)  # under the objective's noise law
        self._step_sums += torch.stack([loss, unweighted.mean(), torch.ones_like(loss)])
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._skipped == (skipped := self._skipped_steps()):
            self._sums += self._step_sums
        self._step_sums.zero_()
        self._skipped = skipped
        if self._step % trainer.log_every_n_steps and self._step != trainer.max_steps:
            return
        loss_sum, raw_sum, count = trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        self._sums.zero_()
        values = {"images": pl_module.images_seen}
        if count:
            values |= {"train/loss": loss_sum / count, "train/unweighted_loss": raw_sum / count}
        values["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        if pl_module.grad_norm is not None:
            values["train/grad_norm"] = float(pl_module.grad_norm)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self._step)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})

    def _tables(self) -> list[MetricsTable]:
        return [logger for logger in self._trainer.loggers if isinstance(logger, MetricsTable)]

    def _skipped_steps(self) -> int:
        return sum(callback.skipped for callback in self._trainer.callbacks if isinstance(callback, FiniteGuard))

    # --- checkpoints ---

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoints.stamp(checkpoint, self.recipe)

    def state_dict(self) -> dict[str, Any]:
        images = self._trainer.lightning_module.images_seen
        return {
            "window": from_all(self._sums[None]).cpu(),
            "rows": sum(table.rows_at(images) for table in self._tables()),
            "unwritten": _unwritten(self._trainer),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._window, self._rows = state_dict["window"], state_dict["rows"]
        self._unwritten = state_dict["unwritten"]

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        ema, is_first = find_ema(trainer), trainer.is_global_zero
        if self.net is None or not (is_first or is_sharded(pl_module.denoiser.net)):
            return
        with ema.swapped(pl_module) if ema is not None else nullcontext() as profile:
            weights = whole_state(pl_module.denoiser.net, keep=is_first)
        if is_first:
            facts = {"shape": self.shape, "num_classes": self.num_classes, "images": pl_module.images_seen}
            folder = Path(trainer.default_root_dir)
            save_denoiser(folder, pl_module.denoiser, self.net, weights=weights, ema=profile or "none", **facts)


def _unwritten(trainer: Any) -> dict[str, float]:
    """What `self.log` was given in this step: Lightning passes it to the loggers when all callbacks have ended theirs."""
    connector = trainer._logger_connector
    if trainer._results is None or not connector.should_update_logs:
        return {}
    return {name: float(value) for name, value in connector.metrics["log"].items()}
