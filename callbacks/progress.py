"""A progress bar in images: loss, images/s, time left."""

import sys
import time
from typing import Any

from lightning.pytorch import Callback, Trainer
from tqdm import tqdm

QUIET_SECONDS = 20.0  # between lines where there is no terminal to redraw


class Progress(Callback):
    """A bar on a terminal; a line every 20 seconds in a log file. The loss shown is the last logged window's mean."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=trainer.max_steps * pl_module.batch_size,
            initial=pl_module.images_seen,
            desc=trainer.lightning_module.__class__.__name__.removesuffix("Module").lower(),
            unit="img",
            unit_scale=True,
            mininterval=0.5 if is_terminal else QUIET_SECONDS,
            maxinterval=1.0 if is_terminal else QUIET_SECONDS,
            bar_format=None
            if is_terminal
            else "{desc} {n_fmt}/{total_fmt} images [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n",
            disable=not trainer.is_global_zero,
            dynamic_ncols=is_terminal,
        )
        self._postfix_at = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        images = pl_module.images_seen
        if images == self._bar.n or self._bar.disable:
            return
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and time.monotonic() - self._postfix_at > 0.5:
            self._bar.set_postfix_str(f"loss {float(loss):.4f}", refresh=False)
            self._postfix_at = time.monotonic()
        self._bar.update(images - self._bar.n)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()  # or the message would stand on the bar's line

    def _close(self) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()
