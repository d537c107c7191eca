"""A progress bar in images: loss, images/s, time left."""

import sys
import time

from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from ..modules.base import CountedModule, StepOutputs
from .base import StepCallback

QUIET_SECONDS = 20.0  # between lines where there is no terminal to redraw


class Progress(StepCallback[CountedModule]):
    """A bar on a terminal; a line every 20 seconds in a log file. The loss shown is the last logged window's mean.

    Shows nothing where another progress bar, one of Lightning's, is among the callbacks.
    """

    def on_run_start(self, trainer: Trainer, module: CountedModule) -> None:
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=trainer.max_steps * module.batch_size,
            initial=module.images_seen,
            desc=type(module).__name__.removesuffix("Module").lower(),
            unit="img",
            unit_scale=True,
            mininterval=0.5 if is_terminal else QUIET_SECONDS,
            maxinterval=1.0 if is_terminal else QUIET_SECONDS,
            bar_format=None
            if is_terminal
            else "{desc} {n_fmt}/{total_fmt} images [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n",
            disable=not trainer.is_global_zero or trainer.progress_bar_callback is not None,
            dynamic_ncols=is_terminal,
        )
        self._postfix_at = 0.0

    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        if self._bar.disable:
            return
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and time.monotonic() - self._postfix_at > 0.5:
            self._bar.set_postfix_str(f"loss {float(loss):.4f}", refresh=False)
            self._postfix_at = time.monotonic()
        self._bar.update(module.images_seen - self._bar.n)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()  # or the message would stand on the bar's line

    def _close(self) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()
