"""The training loss in the run's tables, and the finished model in its folder."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_diff.artifacts import save_denoiser
from lightning_diff.metrics_table import MetricsTable

from .ema import find as find_ema


class RunRecord(Callback):
    """Log the mean loss, learning rate and gradient norm every `trainer.log_every_n_steps`; write the model at the end.

    Losses are summed on the device and read once for each window, so that no step waits for the device. The logged loss is the
    mean over every step, process and accumulation step of the window.

    Args:
        net: the recipe's node for the network, from which `model.json` lets anybody rebuild it; None writes no model.
        shape: (C, H, W) of the images.
        num_classes: number of classes, 0 for none.
    """

    def __init__(self, net: dict[str, Any] | None, shape: tuple[int, ...], num_classes: int = 0):
        self.net, self.shape, self.num_classes = net, tuple(shape), num_classes

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._step = trainer.global_step
        self._sums = torch.zeros(3, device=pl_module.device)  # loss, unweighted loss, micro-batches
        for logger in trainer.loggers:
            if isinstance(logger, MetricsTable):
                logger.truncate(pl_module.images_seen)
                logger.images_seen = lambda: pl_module.images_seen

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Lightning hands over the loss divided by the number of accumulation steps.
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        unweighted = outputs["per_sample_loss"] * outputs.get("importance", 1.0)  # under the objective's noise law
        self._sums += torch.stack([loss, unweighted.mean(), torch.ones_like(loss)])
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._step % trainer.log_every_n_steps and self._step != trainer.max_steps:
            return
        sums = trainer.strategy.reduce(self._sums, reduce_op="sum")
        loss_sum, raw_sum, count = sums.tolist()
        self._sums.zero_()
        values = {
            "images": pl_module.images_seen,
            "train/loss": loss_sum / count,
            "train/unweighted_loss": raw_sum / count,
            "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
        }
        if pl_module.grad_norm is not None:
            values["train/grad_norm"] = float(pl_module.grad_norm)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self._step)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        ema = find_ema(trainer)
        if not trainer.is_global_zero or self.net is None:
            return
        path = Path(trainer.default_root_dir)
        facts = {"shape": self.shape, "num_classes": self.num_classes, "images": pl_module.images_seen}
        if ema is None:
            save_denoiser(path, pl_module.denoiser, self.net, ema="none", **facts)
            return
        with ema.swapped(pl_module) as profile:
            save_denoiser(path, pl_module.denoiser, self.net, ema=profile or "none", **facts)
