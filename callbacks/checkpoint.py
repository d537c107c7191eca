"""Saving the whole state of a run, at intervals and on a signal to stop."""

import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from torch import distributed

from ..artifacts import checkpoints
from ..foundation import stopping
from ..foundation.errors import Stopped
from ..modules import lightning_internals as internals
from ..modules.base import CountedModule, StepOutputs
from ..modules.lightning_internals import State
from ..modules.sharding import ShardedStrategy
from .base import PeriodicCallback, StepCallback
from .cadence import refuse_nonpositive

# How often several processes exchange clocks and signals; one process looks at every step.
POLL_SECONDS = 1.0
POLL_STEPS = 64  # at least once in so many steps
SAVE_FIRST_SECONDS = 60.0  # what may be lost when a process is killed in pictures and figures


class Checkpoint(StepCallback[CountedModule], LightningCheckpoint):
    """Write `checkpoints/step_*.ckpt` in the run folder, whole or not at all, and keep the newest few.

    Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP let the step under way finish, save, and end the run (several processes: within about a
    second). Waiting for examples, pictures and figures are left as they are, and done again by the run that resumes. A second
    Ctrl-C ends a run at once, another signal for the second time where no step ends. A last checkpoint is written when training
    ends. Being a Lightning checkpoint callback it runs after all others, so that it sees their final state.

    Args:
        every_images: images between checkpoints, or None.
        every_minutes: minutes between checkpoints, or None.
        keep: how many to keep, >= 1.
    """

    ALONE: ClassVar[str] = "write checkpoints"

    def __init__(self, every_images: int | None = None, every_minutes: float | None = 10.0, keep: int = 2):
        refuse_nonpositive("Checkpoint", every_images=every_images, every_minutes=every_minutes, keep=keep)
        self.every_images, self.every_minutes, self.keep = every_images, every_minutes, keep
        self._is_readable = False
        self._trainer: Trainer | None = None
        self._due: list[str] = []  # of the checkpoint that was loaded: callbacks that had not yet acted

    def on_run_start(self, trainer: Trainer, module: CountedModule) -> None:
        self._clock = time.monotonic()
        self._images = module.images_seen  # at the last checkpoint
        self._polled, self._next_poll = (self.finished_steps, self._clock), self.finished_steps + 1
        self._trainer = trainer
        stopping.defer(partial(_agreed, trainer), is_alone=trainer.world_size == 1)
        due, self._due = self._due, []
        for name, callback in _periodic(trainer).items():
            if name in due and not self.is_last(trainer):
                callback.act_now(trainer, module)

    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        images = module.images_seen
        # The last step's before pictures and figures are made of it, which may fail. Of several processes one may want to stop
        # before the others know; they save when the training has ended.
        due = self.is_last(trainer) or (trainer.should_stop and trainer.world_size == 1)
        due = due or (self.every_images is not None and images // self.every_images > self._images // self.every_images)
        signum = stopping.pending()
        late = self.every_minutes is not None and time.monotonic() - self._clock > 60 * self.every_minutes
        if trainer.world_size > 1:
            late, signum = self._agree(trainer, late, signum) if self.finished_steps >= self._next_poll else (False, 0)
        due = due or late or bool(signum)
        if due and self._images != images:
            self._save(trainer, module)
        if signum:
            raise stopping.stopped(signum, self._farewell(trainer, signum))

    def save_first(self, trainer: Trainer, module: CountedModule) -> None:
        """Before what takes long: save, unless that was done a moment ago. To be called on all processes."""
        late = torch.tensor(
            int(time.monotonic() - self._clock > SAVE_FIRST_SECONDS), device=trainer.strategy.root_device
        )
        if trainer.world_size > 1:
            distributed.all_reduce(late, distributed.ReduceOp.MAX)
        if late and self._images != module.images_seen:
            self._save(trainer, module)

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
        stopping.obey()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what a signal ended between two steps. Lightning tears nothing down after an exception."""
        module = pl_module
        if isinstance(exception, Stopped) and exception.is_whole and isinstance(module, CountedModule):
            if self._images != module.images_seen:
                self._save(trainer, module)
            exception.args = (self._farewell(trainer, exception.signum),)
        stopping.obey()

    def state_dict(self) -> State:
        """Empty but for a checkpoint from between a step and what acts on it; the run that resumes from it acts first."""
        if self._trainer is None:
            return {}
        module = cast(CountedModule, self._trainer.lightning_module)
        callbacks = _periodic(self._trainer).items()
        due = [name for name, callback in callbacks if callback.is_waiting(self._trainer, module)]
        return {"due": due} if due else {}

    def load_state_dict(self, state_dict: State) -> None:
        self._due = state_dict["due"]

    def _farewell(self, trainer: Trainer, signum: int) -> str:
        path = self._target(trainer)
        what = f"after saving {path}" if path.exists() else "before the first step was done"
        return f"stopped by {signal.Signals(signum).name} {what}"

    def _target(self, trainer: Trainer) -> Path:
        return checkpoints.checkpoint_path(Path(trainer.default_root_dir) / "checkpoints", trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        internals.count_as_at_step_end(checkpoint)

    def _write(self, trainer: Trainer, temporary: Path) -> None:
        trainer.save_checkpoint(temporary)
        if not self._is_readable:  # found out at the first save, not at the first resume
            checkpoints.read(temporary)
            self._is_readable = True

    def _save(self, trainer: Trainer, module: CountedModule) -> None:
        path = self._target(trainer)
        with stopping.saving():
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
                # All take part in gathering the state, and write their shards if they have some.
                trainer.save_checkpoint(path)
            trainer.strategy.barrier()  # or a process that is done might be taken for one that failed, and this save be cut off
        self._clock, self._images = time.monotonic(), module.images_seen


def _agreed(trainer: Trainer, signum: int) -> int:
    """The signal that any process noted, 0 for none; to be called on all."""
    known = torch.tensor(signum, device=trainer.strategy.root_device)
    distributed.all_reduce(known, distributed.ReduceOp.MAX)
    return int(known)


def _periodic(trainer: Trainer) -> dict[str, PeriodicCallback[CountedModule]]:
    """The run's periodic callbacks by names that stay the same when it resumes."""
    named: dict[str, PeriodicCallback[CountedModule]] = {}
    count: Counter[str] = Counter()
    for callback in internals.callbacks(trainer):
        if isinstance(callback, PeriodicCallback):
            kind = type(callback).__qualname__
            named[f"{kind} {count[kind]}"] = callback
            count[kind] += 1
    return named
