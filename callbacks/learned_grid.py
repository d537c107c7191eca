"""A schedule while it is being learned: its figures in the run's tables, its grid in pictures."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from matplotlib.figure import Figure

from .. import schedules
from ..foundation.atomic import replacing
from .cadence import is_due, refuse_nonpositive


class LearnedGrid(Callback):
    """Log `schedule/...` every `trainer.log_every_n_steps`, and draw the learned grid against Karras's and the tangent law's.

    The figures are means over one step's batch: cost, outcome, ART-RL's multiplier, psi(T) / T and lambda, the spread of ln(step)
    among trajectories; for a step policy return, reward and steps. The picture is `samples/<images seen>.png`.

    Args:
        every: trajectories between pictures; None for one at the end only. There is always one at the end.
    """

    def __init__(self, every: int | None = None):
        refuse_nonpositive("LearnedGrid", every=every)
        self.every = every

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._step % trainer.log_every_n_steps == 0 or self._step == trainer.max_steps:  # type: ignore[attr-defined]
            values = {f"schedule/{name}": value for name, value in pl_module.summary.items()}
            for logger in trainer.loggers:
                logger.log_metrics({"images": pl_module.images_seen} | values, step=self._step)
        if is_due(pl_module, self.every) and self._step != trainer.max_steps:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: Any) -> None:
        grid = pl_module.grid()
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
        axes.set(xlabel="step", ylabel="sigma", title=f"{pl_module.images_seen:,} trajectories")
        axes.legend()
        path = Path(trainer.default_root_dir) / "samples" / f"{pl_module.images_seen:012d}.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=100, metadata={"Software": None})
