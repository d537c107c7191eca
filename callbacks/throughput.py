"""Images per second, and where the memory went."""

import time
from typing import ClassVar

from lightning.pytorch import Trainer

from ..foundation.devices import peak_memory
from ..modules.base import CountedModule, StepOutputs
from ..modules.lightning_internals import log_every_n_steps
from .base import StepCallback


class Throughput(StepCallback[CountedModule]):
    """Log images/s over each window of `trainer.log_every_n_steps`, and the peak memory on a GPU.

    Reads a clock once for each window and never waits for the device: over a window the host cannot run ahead by more than its
    queue. Time spent in other callbacks (pictures, evaluation, saving) counts, since it is time spent.
    """

    ALONE: ClassVar[str] = "log the same"

    def on_run_start(self, trainer: Trainer, module: CountedModule) -> None:
        self._images, self._clock = module.images_seen, time.perf_counter()

    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        if self.finished_steps % log_every_n_steps(trainer):
            return  # the last window may be of one step, in which no speed shows
        now = time.perf_counter()
        values = {"images_per_second": (module.images_seen - self._images) / (now - self._clock)}
        if (peak := peak_memory(module.device)) is not None:
            values["gpu_memory_gib"] = peak / 2**30
        self._images, self._clock = module.images_seen, now
        self.log_row(trainer, module, values)
