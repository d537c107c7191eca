"""Images per second, and where the memory went."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback


class Throughput(Callback):
    """Log images/s over each window of `trainer.log_every_n_steps`, and the peak memory on a GPU.

    Reads a clock once for each window and never waits for the device: over a window the host cannot run ahead by more than its
    queue. Time spent in other callbacks (pictures, evaluation, saving) counts, since it is time spent.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._step, self._images, self._clock = trainer.global_step, pl_module.images_seen, time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step or trainer.global_step % trainer.log_every_n_steps:
            return
        now = time.perf_counter()
        values = {
            "images": pl_module.images_seen,
            "images_per_second": (pl_module.images_seen - self._images) / (now - self._clock),
        }
        if pl_module.device.type == "cuda":
            values["gpu_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        self._step, self._images, self._clock = trainer.global_step, pl_module.images_seen, now
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
