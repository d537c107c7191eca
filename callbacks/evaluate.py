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
from .several import Named, refuse_no_name
from .trackers import log_values


class Evaluate(PeriodicCallback[TrainingModule], Named):
    """Measure Fréchet and kernel distance, precision, recall, density, coverage and memorisation; log each with its protocol.

    All processes draw their share of the samples. The figures do not depend on how many there are, up to rounding.

    Args:
        every: images between evaluations; None for one at the end only. There is always one at the end.
        n: samples; None for as many as there are held-out images.
        feature: feature space; None for the best that the data allow (see `metrics.feature_extractor`).
        steps, solver, grid, levels: of the sampler; what is left out suits the model (see `sampling.choose`).
        guidance, seed: of the samples.
        batch: samples at a time on each process.
        name: in trackers, of one of several: eval/frechet_pixels/<name>; None for its sampler, "heun, 18 steps". (metrics.csv has
            the whole protocol in each row.)
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
        name: str | None = None,
        per_class: bool = False,
    ):
        refuse_no_name("Evaluate", name)
        refuse_nonpositive("Evaluate", every=every, n=n, steps=steps, batch=batch)
        super().__init__(every)
        self.n, self.feature = n, feature
        self.sampler = {"solver": solver, "steps": steps, "grid": grid, "levels": levels}
        self.guidance, self.seed, self.batch, self.name = guidance, seed, batch, name
        self.per_class = per_class
        self._reference: Reference | None = None

    def refuse_unfit(self, module: TrainingModule, data: Data) -> None:
        choose_for("Evaluate", module.denoiser, self.sampler)  # refuses what does not go together
        refuse_unfit_guidance("Evaluate", module, data, self.guidance)
        refuse_unfit("Evaluate", self.feature, data.pictured, self.n)

    def on_run_start(self, trainer: Trainer, module: TrainingModule) -> None:
        say_doubt("Evaluate", trainer, module, self.guidance)
        data = training_data(trainer).data.pictured
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
                autoencoder=training_data(trainer).data.autoencoder,
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
        title = self._title(trainer, module)
        place = f"/{title}" if title else ""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsTable):
                logger.log_rows([where | row.record() for row in rows])
        rows = [row for row in rows if "/" not in row.metric]  # by class: too many for a terminal and a tracker
        log_values(trainer, {f"eval/{row.metric}{place}": row.value for row in rows})
        return f"{title}:\n{table(rows)}" if title else table(rows)

    def _title(self, trainer: Trainer, module: TrainingModule) -> str:
        """What tells it from others: a consistency model, say, is measured with one step and with two. "" for one alone."""
        all_of_them = [callback for callback in callbacks(trainer) if isinstance(callback, Evaluate)]
        if self.name is not None or len(all_of_them) == 1:
            return self.name or ""
        before = all_of_them[: all_of_them.index(self)]
        sampler = self._sampler_in_words(module)
        alike = sum(each.name is None and each._sampler_in_words(module) == sampler for each in before)
        return f"{sampler} ({alike + 1})" if alike else sampler

    def _sampler_in_words(self, module: TrainingModule) -> str:
        sampling = choose_for("Evaluate", module.denoiser, self.sampler)
        guided = "" if self.guidance == 1 else f", guidance {self.guidance:g}"
        return f"{sampling.name}, {sampling.steps} steps{guided}"
