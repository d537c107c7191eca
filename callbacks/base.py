"""The base of callbacks that watch optimiser steps: when one has ended, what is due, and how a row is logged."""

from collections.abc import Mapping
from typing import ClassVar, Generic, Protocol, TypeVar, cast, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..data import Data
from ..foundation import stopping
from ..foundation.errors import UserError
from ..modules.base import CountedModule, StepOutputs
from ..modules.lightning_internals import callbacks, datamodule, log_every_n_steps
from ..modules.training_data import TrainingData
from .cadence import is_due
from .several import refuse_clashes

M = TypeVar("M", bound=CountedModule)


@runtime_checkable
class SavesFirst(Protocol):
    """A callback that saves the run before something long, if that has not been done lately."""

    def save_first(self, trainer: Trainer, module: CountedModule) -> None: ...


class StepCallback(Callback, Generic[M]):
    """Base of callbacks that act on optimiser steps, of which accumulation makes one from several micro-batches.

    Override, of these, what is wanted, and any other hook of Lightning's besides:

        refuse_unfit(module, data)                      before anything else: UserError for what cannot be done with them
        on_run_start(trainer, module)                   before the first step, of a resumed run too
        on_micro_batch_end(trainer, module, outputs)    with what the module's `training_step` returned on this process
        on_step_end(trainer, module, outputs)           after an optimiser step; the outputs are its last micro-batch's
        on_run_end(trainer, module)                     after the last step

    Log with `log_row`, ask `is_window_end` when the run's tables want a row, and `cadence.is_due` when a number of images has been
    seen. What has to survive a resume goes through `state_dict` and `load_state_dict`.

        class CleanLoss(StepCallback):
            \"""Log the mean unweighted loss of the levels with more signal than noise.\"""

            def on_run_start(self, trainer, module):
                self.losses = []

            def on_micro_batch_end(self, trainer, module, outputs):
                self.losses.append(outputs["per_sample_loss"][outputs["log_snr"] > 0])

            def on_step_end(self, trainer, module, outputs):
                if is_due(module, every=3200):
                    self.log_row(trainer, module, {"loss/clean": torch.cat(self.losses).mean().item()})
                    self.losses.clear()
    """

    watches: type[CountedModule] = CountedModule  # the modules that there is something to see of
    # Why a run can have one of the kind alone: what two of them would both do. "" where there may be several.
    ALONE: ClassVar[str] = ""
    finished_steps = 0  # optimiser steps, since the start of the training

    def refuse_unfit(self, module: M, data: Data) -> None:
        """UserError for what cannot be done with this model and these data; asked before the run folder is touched.

        And again before the first step, where a Trainer of one's own has no such door. It may look, but neither train nor draw.
        """

    def on_run_start(self, trainer: Trainer, module: M) -> None:
        """Before the first step."""

    def on_micro_batch_end(self, trainer: Trainer, module: M, outputs: StepOutputs) -> None:
        """After each micro-batch, which belongs to step `self.finished_steps + 1`, and before `on_step_end`."""

    def on_step_end(self, trainer: Trainer, module: M, outputs: StepOutputs) -> None:
        """After each optimiser step, the number of which is `self.finished_steps`, counted from 1."""

    def on_run_end(self, trainer: Trainer, module: M) -> None:
        """After the last step."""

    def log_row(self, trainer: Trainer, module: M, values: Mapping[str, int | float]) -> None:
        """To every logger: metrics.csv, and TensorBoard or W&B if the recipe asks for one."""
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics({"images": module.images_seen, **values}, step=trainer.global_step)

    def is_window_end(self, trainer: Trainer) -> bool:
        """Whether this step is one of every `trainer.log_every_n_steps`, or the last."""
        return trainer.global_step % log_every_n_steps(trainer) == 0 or self.is_last(trainer)

    def is_last(self, trainer: Trainer) -> bool:
        """Whether this step is the last."""
        return trainer.global_step == trainer.max_steps

    def shows_progress(self, trainer: Trainer) -> bool:
        """Whether this process draws bars on a terminal: the first one does, unless a bar of Lightning's is there."""
        return trainer.is_global_zero and trainer.progress_bar_callback is None

    # --- Lightning's hooks; one that is overridden has to call the one here ---

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_others(self, pl_module)
        refuse_clashes(callbacks(trainer))
        if isinstance(source := datamodule(trainer), TrainingData):
            self.refuse_unfit(cast(M, pl_module), source.data)
        self.finished_steps = trainer.global_step
        self.on_run_start(trainer, cast(M, pl_module))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, object] | None,
        batch: object,
        batch_idx: int,
    ) -> None:
        module, returned = cast(M, pl_module), cast(StepOutputs, outputs)
        self.on_micro_batch_end(trainer, module, returned)
        if trainer.global_step > self.finished_steps:
            self.finished_steps = trainer.global_step
            self.on_step_end(trainer, module, returned)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_run_end(trainer, cast(M, pl_module))


def refuse_others(callback: "StepCallback[M]", module: LightningModule) -> None:
    """UserError for a module that a callback sees nothing of."""
    if not isinstance(module, callback.watches):
        own, other = callback.watches.__name__, type(module).__name__
        raise UserError(f"{type(callback).__name__}: watches a {own}, not a {other}; leave the callback out")


class PeriodicCallback(StepCallback[M]):
    """One that acts when `every` more images have been seen, and at the end of the run.

    A subclass gives `act`. It may take long: it comes when all others have ended the step, so that a signal can stop it (see
    `foundation.stopping.check`), and it is done again when the run resumes.

    Args:
        every: images, > 0; None for the end only.
    """

    # Whether all processes sample and measure equally often in it, and may agree there to stop.
    together: ClassVar[bool] = False
    _acted = -1  # images seen when it acted last, or when the run started or resumed

    def __init__(self, every: int | None = None):
        self.every = every

    def act(self, trainer: Trainer, module: M) -> None:
        """What is done each time."""
        raise NotImplementedError

    def act_now(self, trainer: Trainer, module: M) -> None:
        """`act` in the middle of a run, where a signal may end it and nothing is lost."""
        self._acted = -1
        for callback in callbacks(trainer):
            if isinstance(callback, SavesFirst):
                callback.save_first(trainer, module)
        with stopping.whole(self._place):
            self.act(trainer, module)
        self._acted = module.images_seen

    @property
    def _place(self) -> stopping.Place:
        return "batch" if self.together else "act"

    def is_waiting(self, trainer: Trainer, module: M) -> bool:
        """Whether it has still to act on the step that ended last."""
        return is_due(module, self.every) and self._acted != module.images_seen and not self.is_last(trainer)

    def on_step_end(self, trainer: Trainer, module: M, outputs: StepOutputs) -> None:
        if self.is_waiting(trainer, module):
            self.act_now(trainer, module)

    def on_run_end(self, trainer: Trainer, module: M) -> None:
        self.act(trainer, module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._acted = cast(M, pl_module).images_seen

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with stopping.whole(self._place):
            super().on_train_end(trainer, pl_module)
