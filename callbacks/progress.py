"""Progress in images: loss, images/s, time left."""

import time
from contextlib import ExitStack
from typing import ClassVar

from lightning.pytorch import LightningModule, Trainer

from ..foundation.progress import stage
from ..modules.base import CountedModule, StepOutputs
from .base import StepCallback


class Progress(StepCallback[CountedModule]):
    """A bar on a terminal; a line every 20 seconds in a log file. The loss shown is the last logged window's mean.

    Lines printed meanwhile appear above the bar. After the last step it stands still, while others show what is drawn and measured.
    Shows nothing where another progress bar, one of Lightning's, is among the callbacks.
    """

    ALONE: ClassVar[str] = "draw a bar"

    def on_run_start(self, trainer: Trainer, module: CountedModule) -> None:
        self._open = ExitStack()
        self._bar = self._open.enter_context(
            stage(
                type(module).__name__.removesuffix("Module").lower(),
                trainer.max_steps * module.batch_size,
                "image",
                shown=self.shows_progress(trainer),
                keep=True,
                lines=True,
                start=module.images_seen,
            )
        )
        self._noted_at = 0.0

    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        loss, note = trainer.callback_metrics.get("train/loss"), None
        if loss is not None and time.monotonic() - self._noted_at > 0.5:
            note, self._noted_at = f"loss {float(loss):.4f}", time.monotonic()
        self._bar.reach(module.images_seen, note)
        if trainer.global_step >= trainer.max_steps:
            self._bar.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()  # or the message would stand on the bar's line

    def _close(self) -> None:
        if hasattr(self, "_open"):
            self._open.close()
