"""A schedule while it is being learned: its figures in the run's tables, its grid in pictures."""

from pathlib import Path
from typing import ClassVar

from lightning.pytorch import Trainer
from matplotlib.figure import Figure

from .. import schedules
from ..foundation.atomic import replacing
from ..modules.base import StepOutputs
from ..modules.schedule import ScheduleModule
from .base import PeriodicCallback
from .cadence import refuse_nonpositive
from .trackers import log_picture


class LearnedGrid(PeriodicCallback[ScheduleModule]):
    """Log `schedule/...` every `trainer.log_every_n_steps`, and draw the learned grid against Karras's and the tangent law's.

    The figures are means over one step's batch: cost, outcome, ART-RL's multiplier, psi(T) / T and lambda, the spread of ln(step)
    among trajectories; for a step policy return, reward and steps. The picture is `samples/<images seen>.png`.

    Args:
        every: trajectories between pictures; None for one at the end only. There is always one at the end.
    """

    ALONE: ClassVar[str] = "log schedule/... and draw the grid"
    watches = ScheduleModule

    def __init__(self, every: int | None = None):
        refuse_nonpositive("LearnedGrid", every=every)
        super().__init__(every)

    def on_step_end(self, trainer: Trainer, module: ScheduleModule, outputs: StepOutputs) -> None:
        if self.is_window_end(trainer):
            self.log_row(trainer, module, {f"schedule/{name}": value for name, value in module.summary.items()})
        super().on_step_end(trainer, module, outputs)

    def act(self, trainer: Trainer, module: ScheduleModule) -> None:
        grid = module.grid()
        if grid is None or not trainer.is_global_zero:
            return
        n, largest = len(grid) - 1, float(grid[0])
        others = {
            "learned": grid,
            "Karras": schedules.karras(n, sigma_max=largest),
            "tangent": schedules.tangent(n, 0.0, largest),
        }
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for name, levels in others.items():
            axes.semilogy(range(n), levels[:-1], "o-", ms=3, label=name)
        axes.set(xlabel="step", ylabel="sigma", title=f"{module.images_seen:,} trajectories")
        axes.legend()
        path = Path(trainer.default_root_dir) / "samples" / f"{module.images_seen:012d}.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=100, metadata={"Software": None})
        log_picture(trainer, "schedule", path)
