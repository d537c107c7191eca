"""Saving the whole state of a run, at intervals and when asked to stop."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from lightning_diff import checkpoints
from lightning_diff.errors import Stopped

from .cadence import refuse_nonpositive

POLL_STEPS = 16  # how often several processes ask each other about clocks and signals; one process looks at every step


class Checkpoint(LightningCheckpoint):
    """Write `checkpoints/step_*.ckpt` in the run folder, whole or not at all, and keep the newest few.

    Ctrl-C and SIGTERM let the step under way finish, save, and end the run; a second Ctrl-C ends it at once. A last checkpoint is
    written when training ends. Being a Lightning checkpoint callback it runs after all others, so that it sees their final state.

    Args:
        every_images: images between checkpoints, or None.
        every_minutes: minutes between checkpoints, or None.
        keep: how many to keep, >= 1.
    """

    def __init__(self, every_images: int | None = None, every_minutes: float | None = 10.0, keep: int = 2):
        refuse_nonpositive("Checkpoint", every_images=every_images, every_minutes=every_minutes, keep=keep)
        self.every_images, self.every_minutes, self.keep = every_images, every_minutes, keep
        self._signum = 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step
        self._clock = time.monotonic()
        self._images = pl_module.images_seen
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._handlers[signum] = signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum == signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self._signum = signum
        print(f"\n{signal.Signals(signum).name}: finishing this step and saving", flush=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of accumulating a step
        self._step = trainer.global_step
        images = pl_module.images_seen
        # The last step's before pictures and figures are made of it, which may fail.
        due = self._step == trainer.max_steps
        due = due or (self.every_images is not None and images // self.every_images > self._images // self.every_images)
        signum = self._signum
        if trainer.world_size == 1 or self._step % POLL_STEPS == 0:
            late = self.every_minutes is not None and time.monotonic() - self._clock > 60 * self.every_minutes
            if trainer.world_size > 1:
                late = trainer.strategy.reduce_boolean_decision(late, all=False)
                asked = trainer.strategy.reduce_boolean_decision(bool(signum), all=False)
                signum = (signum or signal.SIGTERM) if asked else 0
            due = due or late or bool(signum)
        elif trainer.world_size > 1:
            signum = 0  # the others do not know yet
        if due:
            path = self._save(trainer, pl_module)
            if signum:
                raise Stopped(signum, f"stopped by {signal.Signals(signum).name} after saving {path}")

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self._target(trainer).exists():  # something other than max_steps ended the training
            self._save(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._restore_handlers()  # Lightning tears nothing down then

    def _restore_handlers(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers.clear()

    def _target(self, trainer: Trainer) -> Path:
        return checkpoints.checkpoint_path(Path(trainer.default_root_dir) / "checkpoints", trainer.global_step)

    def _save(self, trainer: Trainer, pl_module: Any) -> Path:
        path = self._target(trainer)
        if trainer.is_global_zero:
            checkpoints.write(
                path,
                lambda temporary: trainer.save_checkpoint(temporary),
                step=trainer.global_step,
                images=pl_module.images_seen,
            )
            checkpoints.prune(path.parent, self.keep)
        else:
            trainer.save_checkpoint(path)  # every process takes part in gathering the state; only the first writes
        self._clock, self._images = time.monotonic(), pl_module.images_seen
        return path
