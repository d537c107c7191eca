"""Ending a training early, for lack of time."""

import time
from datetime import timedelta
from typing import ClassVar

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..modules.base import CountedModule, StepOutputs
from ..modules.lightning_internals import State
from .base import StepCallback


class TimeLimit(StepCallback[CountedModule]):
    """End the training after the first step that ends later than this, and let it end as at its last step: with pictures, figures
    and the model. The time counts from each start, so that the same command resumes; it is what `trainer.max_time` becomes.

    Args:
        max_time: a `timedelta`, its arguments by name ({hours: 3}), or DD:HH:MM:SS.
    """

    ALONE: ClassVar[str] = "end the run"

    def __init__(self, max_time: str | timedelta | dict[str, int]):
        seconds = Timer(max_time).time_remaining()
        if not seconds or seconds < 0:
            raise MisconfigurationException(f"max_time must be longer than nothing, got {max_time}")
        self.seconds = seconds
        self.is_over = False

    @property
    def state_key(self) -> str:
        return "Timer"  # whose state is in checkpoints of older runs, and is passed over

    def on_run_start(self, trainer: Trainer, module: CountedModule) -> None:
        self._clock = time.monotonic()

    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        is_over = time.monotonic() - self._clock >= self.seconds
        if trainer.world_size > 1:
            is_over = trainer.strategy.reduce_boolean_decision(is_over, all=False)
        if is_over:
            self.is_over = trainer.should_stop = True

    def load_state_dict(self, state_dict: State) -> None:
        """Nothing is carried over from an earlier start."""
