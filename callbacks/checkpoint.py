"""Saving the whole state of a run, at intervals and on a signal to stop."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from torch import distributed

from ..artifacts import checkpoints
from ..foundation.errors import SCHEDULER_SIGNALS, Stopped
from ..modules.base import CountedModule, StepOutputs
from ..modules.sharding import ShardedStrategy
from .base import StepCallback
from .cadence import refuse_nonpositive

# How often several processes exchange clocks and signals; one process looks at every step.
POLL_SECONDS = 1.0
POLL_STEPS = 64  # at least once in so many steps

Handler = Callable[[int, FrameType | None], object] | int | None  # what signal.signal gives back and takes


class Checkpoint(StepCallback[CountedModule], LightningCheckpoint):
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
        self._handlers: dict[int, Handler] = {}

    def on_run_start(self, trainer: Trainer, module: CountedModule) -> None:
        self._clock = time.monotonic()
        self._images = module.images_seen  # at the last checkpoint
        self._polled, self._next_poll = (self.finished_steps, self._clock), self.finished_steps + 1
        for signum in (signal.SIGINT, *SCHEDULER_SIGNALS):
            self._handlers[signum] = signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum == signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self._signum = signum
        # Not print, which must not be interrupted by itself.
        os.write(1, f"\n{signal.Signals(signum).name}: finishing this step and saving\n".encode())

    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        images = module.images_seen
        # The last step's before pictures and figures are made of it, which may fail. Of several processes one may want to stop
        # before the others know; they save when the training has ended.
        due = self.is_last(trainer) or (trainer.should_stop and trainer.world_size == 1)
        due = due or (self.every_images is not None and images // self.every_images > self._images // self.every_images)
        signum = self._signum
        late = self.every_minutes is not None and time.monotonic() - self._clock > 60 * self.every_minutes
        if trainer.world_size > 1:
            late, signum = self._agree(trainer, late, signum) if self.finished_steps >= self._next_poll else (False, 0)
        due = due or late or bool(signum)
        if due:
            path = self._save(trainer, module)
            if signum:
                raise Stopped(signum, f"stopped by {signal.Signals(signum).name} after saving {path}")

    def _agree(self, trainer: Trainer, late: bool, signum: int) -> tuple[bool, int]:
        """Whether any process is late, and its signal, reduced over all; the first one sets when to reduce again."""
        step, clock = self._polled
        self._polled = self.finished_steps, time.monotonic()
        seconds = (self._polled[1] - clock) / (self.finished_steps - step)
        wait = max(1, min(POLL_STEPS, round(POLL_SECONDS / max(seconds, 1e-6)))) if trainer.is_global_zero else 0
        known = torch.tensor([late, signum, wait], device=trainer.strategy.root_device)
        distributed.all_reduce(known, distributed.ReduceOp.MAX)
        late_anywhere, signum_anywhere, wait = (int(value) for value in known.tolist())
        self._next_poll = self.finished_steps + wait
        return bool(late_anywhere), signum_anywhere

    def on_run_end(self, trainer: Trainer, module: CountedModule) -> None:
        # Not by looking at the disk, where another process may not have finished writing the last step's.
        if self._images != module.images_seen:  # something other than max_steps ended the training
            self._save(trainer, module)
        elif trainer.is_global_zero:  # for a run that was killed after its last checkpoint, before it could
            checkpoints.prune(self._target(trainer).parent, self.keep)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
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

    def _save(self, trainer: Trainer, module: CountedModule) -> Path:
        path = self._target(trainer)
        if trainer.is_global_zero:
            checkpoints.write(
                path,
                lambda temporary: self._write(trainer, temporary),
                step=trainer.global_step,
                images=module.images_seen,
                is_folder=isinstance(trainer.strategy, ShardedStrategy),
            )
            checkpoints.prune(path.parent, self.keep)
        else:
            trainer.save_checkpoint(
                path
            )  # all take part in gathering the state, and write their shards if they have some
        trainer.strategy.barrier()  # or a process that is done might be taken for one that failed, and this save be cut off
        self._clock, self._images = time.monotonic(), module.images_seen
        return path
