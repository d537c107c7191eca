"""Pictures of what the model draws, from the same noise every time."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from ..artifacts import pictures
from ..foundation.errors import UserError
from ..samplers import SolverName
from ..samplers.generate import generate
from .cadence import is_due, refuse_nonpositive
from .ema import find as find_ema
from .sampler import GridName, choose_for


class SampleGrid(Callback):
    """Write `samples/<images seen>.png`: a row for each class, the same initial noise at every time, averaged weights.

    Args:
        every: images between pictures; None for one at the end only. There is always one at the end.
        columns: pictures in a row.
        rows: rows where there are no classes; with classes, at most this many classes are shown.
        steps, solver, grid, levels: of the sampler; what is left out suits the model (see `sampling.choose`).
        guidance: classifier-free guidance scale; 1 for none.
        seed: of the initial noise.
    """

    def __init__(
        self,
        every: int | None = None,
        *,
        columns: int = 10,
        rows: int = 10,
        steps: int | None = None,
        solver: SolverName | None = None,
        grid: GridName | None = None,
        levels: list[float] | None = None,
        guidance: float = 1.0,
        seed: int = 0,
    ):
        refuse_nonpositive("SampleGrid", every=every, columns=columns, rows=rows, steps=steps)
        self.every, self.columns, self.rows = every, columns, rows
        self.sampler = {"solver": solver, "steps": steps, "grid": grid, "levels": levels}
        self.guidance, self.seed = guidance, seed

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step
        shape = trainer.datamodule.data.shape  # type: ignore[attr-defined]
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise UserError(f"SampleGrid: draws grey or RGB images, not examples of shape {shape}; leave it out")
        choose_for("SampleGrid", pl_module.denoiser, self.sampler)  # refuses what does not go together

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            if is_due(pl_module, self.every) and self._step != trainer.max_steps:
                self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: Any) -> None:
        data = trainer.datamodule.data  # type: ignore[attr-defined]
        rows = min(self.rows, data.num_classes) if data.num_classes else self.rows
        labels = torch.arange(rows).repeat_interleave(self.columns) if data.num_classes else None
        sampling = choose_for("SampleGrid", pl_module.denoiser, self.sampler)
        ema = find_ema(trainer)
        # Every process draws the whole picture: it is small, and a sharded network needs all of them.
        with ema.swapped(pl_module) if ema is not None else nullcontext():
            images = generate(
                pl_module.denoiser,
                data.shape,
                range(rows * self.columns),
                labels,
                sigmas=sampling.sigmas,
                solver=sampling.solver,
                guidance=self.guidance,
                seed=self.seed,
                device=pl_module.device,
            )
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "samples" / f"{pl_module.images_seen:012d}.png"
            pictures.save_grid(path, images, columns=self.columns)
