"""Pictures of what the model draws, from the same noise every time."""

from pathlib import Path

import torch
from lightning.pytorch import Trainer

from ..artifacts import pictures
from ..autoencoders import as_images
from ..data import Data
from ..foundation import rng
from ..foundation.errors import UserError
from ..modules.denoiser_module import TrainingModule
from ..modules.training_data import training_data
from ..samplers import SolverName
from ..samplers.generate import generate
from .base import PeriodicCallback
from .cadence import refuse_nonpositive
from .ema import averaged
from .sampler import GridName, choose_for, refuse_unfit_guidance, say_doubt
from .several import Named, name_of, refuse_no_name
from .trackers import log_picture


class SampleGrid(PeriodicCallback[TrainingModule], Named):
    """Write `samples/<images seen>.png`: a row for each class, with its name, the same noise every time, averaged weights.

    Of several in a run, each with a sampler of its own, the second and later ones write into a folder of their name in `samples/`.

    Args:
        every: images between pictures; None for one at the end only. There is always one at the end.
        columns: pictures in a row.
        rows: rows where there are no classes; with classes, at most this many classes are shown.
        steps, solver, grid, levels: of the sampler; what is left out suits the model (see `sampling.choose`).
        guidance: classifier-free guidance scale; 1 for none.
        seed: of the initial noise.
        name: of the folder in `samples/`, and in trackers; None for none, or of several a number, "2" and so on.
    """

    together = True
    watches = TrainingModule

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
        name: str | None = None,
    ):
        refuse_no_name("SampleGrid", name)
        refuse_nonpositive("SampleGrid", every=every, columns=columns, rows=rows, steps=steps)
        super().__init__(every)
        self.columns, self.rows = columns, rows
        self.sampler = {"solver": solver, "steps": steps, "grid": grid, "levels": levels}
        self.guidance, self.seed, self.name = guidance, seed, name

    def refuse_unfit(self, module: TrainingModule, data: Data) -> None:
        shape = data.shape if data.autoencoder is None else data.autoencoder.image_shape(data.shape)
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise UserError(f"SampleGrid: draws grey or RGB images, not examples of shape {shape}; leave it out")
        choose_for("SampleGrid", module.denoiser, self.sampler)  # refuses what does not go together
        refuse_unfit_guidance("SampleGrid", module, data, self.guidance)

    def on_run_start(self, trainer: Trainer, module: TrainingModule) -> None:
        say_doubt("SampleGrid", trainer, module, self.guidance)

    def act(self, trainer: Trainer, module: TrainingModule) -> None:
        data = training_data(trainer).data
        rows = min(self.rows, data.num_classes) if data.num_classes else self.rows
        labels = torch.arange(rows).repeat_interleave(self.columns) if data.num_classes else None
        sampling = choose_for("SampleGrid", module.denoiser, self.sampler)
        # Every process draws the whole picture: it is small, and a sharded network needs all of them.
        with averaged(trainer, module):
            samples = generate(
                module.denoiser,
                data.shape,
                range(rows * self.columns),
                labels,
                sigmas=sampling.sigmas,
                solver=sampling.solver,
                guidance=self.guidance,
                seed=rng.alike(self.seed, module.seed),
                progress=self.shows_progress(trainer),
                device=module.device,
            )
        if trainer.is_global_zero:
            images = as_images(samples, data.autoencoder, module.device)
            own = name_of(self, SampleGrid, trainer)
            path = Path(trainer.default_root_dir) / "samples" / own / f"{module.images_seen:012d}.png"
            names = [pictures.caption(label, data.class_names) for label in range(rows)] if data.class_names else []
            pictures.save_grid(path, images, columns=self.columns, row_names=names)
            log_picture(trainer, f"samples/{own}" if own else "samples", path)
