"""Saving the whole state of a run, at intervals and when asked to stop."""

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from torch import distributed

from ..artifacts import checkpoints
from ..foundation.errors import SCHEDULER_SIGNALS, Stopped
from ..modules.sharding import ShardedStrategy
from .cadence import refuse_nonpositive

POLL_SECONDS = (
    1.0  # how often several processes ask each other about clocks and signals; one process looks at every step
)
POLL_STEPS = 64  # at least once in so many steps


class Checkpoint(LightningCheckpoint):
    """Write `checkpoints/step_*.ckpt` in the run folder, whole or not at all, and keep the newest few.

    Ctrl-C, SIGTERM and SIGUSR1 let the step under way finish, save, and end the run (several processes: within about a second);
    a second Ctrl-C ends it at once. A last checkpoint is written when training ends. Being a Lightning checkpoint callback it
    runs after all others, so that it sees their final state.

    Args:
        every_images: images between checkpoints, or None.
        every_minutes: minutes between checkpoints, or None.
        keep: how many to keep, >= 1.
    """

    def __init__(self, every_images: int | None = None, every_minutes: float | None = 10.0, keep: int = 2):
        refuse_nonpositive("Checkpoint", every_images=every_images, every_minutes=every_minutes, keep=keep)
        self.every_images, self.every_minutes, self.keep = every_images, every_minutes, keep
        self._is_readable = False
        self._signum = 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step
        self._clock = time.monotonic()
        self._images = pl_module.images_seen  # at the last checkpoint
        self._polled, self._next_poll = (self._step, self._clock), self._step + 1
        for signum in (signal.SIGINT, *SCHEDULER_SIGNALS):
            self._handlers[signum] = signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum == signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self._signum = signum
        # Not print, which must not be interrupted by itself.
        os.write(1, f"\n{signal.Signals(signum).name}: finishing this step and saving\n".encode())

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of accumulating a step
        self._step = trainer.global_step
        images = pl_module.images_seen
        # The last step's before pictures and figures are made of it, which may fail.
        due = self._step == trainer.max_steps
        due = due or (self.every_images is not None and images // self.every_images > self._images // self.every_images)
        signum = self._signum
        late = self.every_minutes is not None and time.monotonic() - self._clock > 60 * self.every_minutes
        if trainer.world_size > 1:
            late, signum = self._agree(trainer, late, signum) if self._step >= self._next_poll else (False, 0)
        due = due or late or bool(signum)
        if due:
            path = self._save(trainer, pl_module)
            if signum:
                raise Stopped(signum, f"stopped by {signal.Signals(signum).name} after saving {path}")

    def _agree(self, trainer: Trainer, late: bool, signum: int) -> tuple[bool, int]:
        """What one process knows becomes known to all; the first one's clock says when to ask again."""
        step, clock = self._polled
        self._polled = self._step, time.monotonic()
        seconds = (self._polled[1] - clock) / (self._step - step)
        wait = max(1, min(POLL_STEPS, round(POLL_SECONDS / max(seconds, 1e-6)))) if trainer.is_global_zero else 0
        asked = torch.tensor([late, signum, wait], device=trainer.strategy.root_device)
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        late_anywhere, signum_anywhere, wait = (int(value) for value in asked.tolist())
        self._next_poll = self._step + wait
        return bool(late_anywhere), signum_anywhere

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        # Not by looking at the disk, where another process may not have finished writing the last step's.
        if self._images != pl_module.images_seen:  # something other than max_steps ended the training
            self._save(trainer, pl_module)
        elif trainer.is_global_zero:  # for a run that was killed after its last checkpoint, before it could
            checkpoints.prune(self._target(trainer).parent, self.keep)

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

    def _write(self, trainer: Trainer, temporary: Path) -> None:
        trainer.save_checkpoint(temporary)
        if not self._is_readable:  # found out at the first save, not at the first resume
            checkpoints.read(temporary)
            self._is_readable = True

    def _save(self, trainer: Trainer, pl_module: Any) -> Path:
        path = self._target(trainer)
        if trainer.is_global_zero:
            checkpoints.write(
                path,
                lambda temporary: self._write(trainer, temporary),
                step=trainer.global_step,
                images=pl_module.images_seen,
                is_folder=isinstance(trainer.strategy, ShardedStrategy),
            )
            checkpoints.prune(path.parent, self.keep)
        else:
            trainer.save_checkpoint(
                path
            )  # every process takes part in gathering the state, and writes its shards if it has some
        trainer.strategy.barrier()  # or a process that is done might be taken for one that failed, and this save be cut off
        self._clock, self._images = time.monotonic(), pl_module.images_seen
        return path
