"""Quality while training: samples from averaged weights, measured against the data."""

from lightning.pytorch import Trainer

from ..artifacts.metrics_table import MetricsTable
from ..data import Data
from ..foundation import rng
from ..metrics import Reference
from ..metrics.evaluate_denoiser import evaluate_denoiser, table
from ..metrics.features import FeatureName, refuse_unfit
from ..modules.denoiser_module import TrainingModule
from ..modules.lightning_internals import callbacks
from ..modules.training_data import training_data
from ..samplers import SolverName
from .base import PeriodicCallback
from .cadence import refuse_nonpositive
from .ema import averaged
from .sampler import GridName, choose_for, refuse_unfit_guidance, say_doubt
from .trackers import log_values


class Evaluate(PeriodicCallback[TrainingModule]):
    """Measure Fréchet and kernel distance, precision, recall, density, coverage and memorisation; log each with its protocol.

    All processes draw their share of the samples. The figures do not depend on how many there are, up to rounding.

    Args:
        every: images between evaluations; None for one at the end only. There is always one at the end.
        n: samples; None for as many as there are held-out images.
        feature: feature space; None for the best that the data allow (see `metrics.feature_extractor`).
        steps, solver, grid, levels: of the sampler; what is left out suits the model (see `sampling.choose`).
        guidance, seed: of the samples.
        batch: samples at a time on each process.
        per_class: in the feature space "classifier", figures for each class, too; they go to metrics.csv alone.
    """

    together = True
    watches = TrainingModule

    def __init__(
        self,
        every: int | None = None,
        *,
        n: int | None = None,
        feature: FeatureName | None = None,
        steps: int | None = None,
        solver: SolverName | None = None,
        grid: GridName | None = None,
        levels: list[float] | None = None,
        guidance: float = 1.0,
        seed: int = 0,
        batch: int = 256,
        per_class: bool = False,
    ):
        refuse_nonpositive("Evaluate", every=every, n=n, steps=steps, batch=batch)
        super().__init__(every)
        self.n, self.feature = n, feature
        self.sampler = {"solver": solver, "steps": steps, "grid": grid, "levels": levels}
        self.guidance, self.seed, self.batch, self.per_class = guidance, seed, batch, per_class
        self._reference: Reference | None = None

    def refuse_unfit(self, module: TrainingModule, data: Data) -> None:
        choose_for("Evaluate", module.denoiser, self.sampler)  # refuses what does not go together
        refuse_unfit_guidance("Evaluate", module, data, self.guidance)
        refuse_unfit("Evaluate", self.feature, data, self.n)

    def on_run_start(self, trainer: Trainer, module: TrainingModule) -> None:
        say_doubt("Evaluate", trainer, module, self.guidance)
        data = training_data(trainer).data
        self._reference = Reference(data, self.feature, device=module.device)
        self._reference.floor(self.n or len(data.test or data.train))  # kept for later

    def act(self, trainer: Trainer, module: TrainingModule) -> None:
        self._measure(trainer, module)

    def on_run_end(self, trainer: Trainer, module: TrainingModule) -> None:
        text = self._measure(trainer, module)
        if trainer.is_global_zero:
            print(text, flush=True)

    def _measure(self, trainer: Trainer, module: TrainingModule) -> str:
        assert self._reference is not None
        with averaged(trainer, module) as profile:
            sampling = choose_for("Evaluate", module.denoiser, self.sampler)
            rows = evaluate_denoiser(
                module.denoiser,
                self._reference,
                self.n,
                sampling=sampling,
                guidance=self.guidance,
                seed=rng.alike(self.seed, module.seed),
                progress=self.shows_progress(trainer),
                ema=profile or "none",
                batch=self.batch,
                device=module.device,
                per_class=self.per_class,
            )
        where: dict[str, str | int | float | None] = {"step": trainer.global_step, "images": module.images_seen}
        # A consistency model, say, is measured with one step and with two.
        is_one_of_several = sum(isinstance(callback, Evaluate) for callback in callbacks(trainer)) > 1
        sampler = f"{rows[0].protocol.solver}, {rows[0].protocol.steps} steps"
        sampler += "" if self.guidance == 1 else f", guidance {self.guidance:g}"
        place = f"/{sampler}" if is_one_of_several else ""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsTable):
                logger.log_rows([where | row.record() for row in rows])
        rows = [row for row in rows if "/" not in row.metric]  # by class: too many for a terminal and a tracker
        log_values(trainer, {f"eval/{row.metric}{place}": row.value for row in rows})
        return f"{sampler}:\n{table(rows)}" if is_one_of_several else table(rows)
