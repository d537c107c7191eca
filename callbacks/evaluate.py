"""Quality while training: samples from averaged weights, measured against the data."""

from contextlib import nullcontext
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer

from lightning_diff.errors import UserError
from lightning_diff.metrics import Reference
from lightning_diff.metrics.features import FeatureName
from lightning_diff.metrics.sampled import evaluate_denoiser, table
from lightning_diff.metrics_table import MetricsTable

from .cadence import is_due, refuse_nonpositive
from .ema import find as find_ema


class Evaluate(Callback):
    """Measure Fréchet and kernel distance, precision, recall, density, coverage and memorisation; log each with its protocol.

    All processes draw their share of the samples. The figures do not depend on how many there are, up to rounding.

    Args:
        every: images between evaluations; None for one at the end only. There is always one at the end.
        n: samples; None for as many as there are held-out images.
        feature: feature space; None for the best that the data allow (see `metrics.feature_extractor`).
        steps, solver, grid, guidance, seed: of the sampler.
        batch: samples at a time on each process.
    """

    def __init__(
        self,
        every: int | None = None,
        *,
        n: int | None = None,
        feature: FeatureName | None = None,
        steps: int = 18,
        solver: Literal["euler", "heun", "dpmpp_2m"] = "heun",
        grid: Literal["karras", "uniform", "log_snr", "tangent"] = "karras",
        guidance: float = 1.0,
        seed: int = 0,
        batch: int = 256,
    ):
        refuse_nonpositive("Evaluate", every=every, n=n, steps=steps, batch=batch)
        self.every, self.n, self.feature = every, n, feature
        self.sampler: dict[str, Any] = {
            "solver": solver,
            "steps": steps,
            "grid": grid,
            "guidance": guidance,
            "seed": seed,
            "batch": batch,
        }
        self._reference: Reference | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step
        data = trainer.datamodule.data  # type: ignore[attr-defined]
        self._reference = Reference(data, self.feature, device=pl_module.device)
        try:
            self._reference.floor(self.n or len(data.test or data.train))  # kept for later; too few images show now
        except UserError as error:
            raise UserError(f"Evaluate: held-out images in place of samples: {error}") from error

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            if is_due(pl_module, self.every) and self._step != trainer.max_steps:
                self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        text = self._measure(trainer, pl_module)
        if trainer.is_global_zero:
            print(text, flush=True)

    def _measure(self, trainer: Trainer, pl_module: Any) -> str:
        assert self._reference is not None
        ema = find_ema(trainer)
        with ema.swapped(pl_module) if ema is not None else nullcontext() as profile:
            rows = evaluate_denoiser(
                pl_module.denoiser, self._reference, self.n, ema=profile, device=pl_module.device, **self.sampler
            )
        where = {"step": trainer.global_step, "images": pl_module.images_seen}
        for logger in trainer.loggers:
            if isinstance(logger, MetricsTable):
                logger.log_rows([where | row.record() for row in rows])
            else:
                logger.log_metrics({row.metric: row.value for row in rows}, step=trainer.global_step)
        return table(rows)
