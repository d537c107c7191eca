"""The loss of images that are not trained on, beside that of as many that are: overfitting shows as the gap."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from lightning.pytorch import Trainer
from torch import Tensor

from ..artifacts import validation
from ..artifacts.validation import Level
from ..data import Data
from ..data.image_set import Examples
from ..foundation import rng
from ..foundation.errors import UserError
from ..metrics import validation_loss
from ..metrics.validation_loss import Probes
from ..modules import DiffusionModule
from ..modules import lightning_internals as internals
from ..modules.training_data import training_data
from ..noise import as_training_law, log_snr_to_sigma, sigma_to_log_snr
from ..noise.moments import bin_index, moments, moments_by_bin
from .base import PeriodicCallback
from .cadence import is_due, refuse_nonpositive
from .ema import averaged
from .noise_levels import NoiseLevels
from .trackers import log_values

COARSE = 3  # bins that trackers get as one


NAMES = tuple(f"val/{name}{of}" for name in ("loss", "train_loss", "gap") for of in ("", "_se"))


class Validation(PeriodicCallback[DiffusionModule]):
    """Measure the *unweighted* loss of held-out images, and of as many training images, at fixed levels with fixed noise.

    The weights are the averaged ones if the run has an `EMA`. Both kinds of images have the same noise levels and the same noise,
    in every measurement, so that what differs is the images alone, and through training the weights alone. Levels are stratified:
    once over the training law, for the means (val/loss, val/train_loss, and val/gap, their difference, each with its standard error
    as ..._se), and once evenly over log-SNR, for the table by level, validation.csv, which the callback `NoiseLevels` draws into
    noise_levels.png. Overfitting shows at middle and low noise, where a network that remembers its images can tell which one it
    is looking at. The standard errors take all measurements as independent.

    The means go to metrics.csv and every tracker, and are shown to Lightning's own callbacks, so that EarlyStopping and
    ModelCheckpoint with monitor=val/loss act after each measurement.

    Neither weights nor random numbers change: a run with and without it ends with the same bits. Any number of processes gives the
    same figures, up to the network's rounding. Labels and conditions are those of the images; flips and augmentation are left out.

    Args:
        every: images between measurements; None for one at the end only. There is always one at the end.
        n: images of each kind; None for all that are held out, at most 1,024.
        draws: noise levels for each image, of each of both sets of levels.
        images: held-out images in place of those of the run's data: any data node, the training images of which are taken.
        bins, low, high: bins of log-SNR; levels go from `low` to `high`.
        batch: measurements at a time on each process.
        seed: of the choice, levels and noise; the run's own seed has no part in it, so that runs can be compared.
    """

    together = True
    watches = DiffusionModule
    ALONE = "write validation.csv"

    def __init__(
        self,
        every: int | None = None,
        *,
        n: int | None = None,
        draws: int = 8,
        images: Data | None = None,
        bins: int = 30,
        low: float = -10.0,
        high: float = 10.0,
        batch: int = 256,
        seed: int = 0,
    ):
        refuse_nonpositive("Validation", every=every, n=n, draws=draws, batch=batch, bins=bins)
        if not low < high:
            raise ValueError(f"Validation: need low < high, got {low:g} and {high:g}")
        super().__init__(every)
        self.n, self.draws, self.images = n, draws, images
        self.bins, self.low, self.high, self.batch, self.seed = bins, low, high, batch, seed
        self.rows: list[Level] = []  # of all measurements so far

    # --- what is measured ---

    def refuse_unfit(self, module: DiffusionModule, data: Data) -> None:
        held_out = self._held_out(data)
        if held_out.shape != data.shape:
            raise UserError(f"Validation: the held-out images are {held_out.shape}, the training images {data.shape}")
        if self.n is not None and self.n > (most := min(len(held_out), len(data.train))):
            raise UserError(f"Validation: n is {self.n}, and there are {most} images of both kinds")

    def _held_out(self, data: Data) -> Examples:
        if self.images is not None:
            self.images.setup()
            return self.images.train
        if data.test is None:
            raise UserError(
                "Validation: the data hold no images out; set data.hold_out to how many, or give Validation images of their own"
            )
        return data.test

    def _levels(self, module: DiffusionModule, n: int, seed: int) -> tuple[Probes, Probes]:
        """Of the training law, and evenly over log-SNR."""
        law, sigma_data = as_training_law(module.noise).objective_law(), module.denoiser.sigma_data
        uniform = validation_loss.over_log_snr(self.low, self.high, sigma_data, n, self.draws, seed)
        return validation_loss.of_law(law, n, self.draws, seed), uniform

    def act(self, trainer: Trainer, module: DiffusionModule) -> None:
        data = training_data(trainer).data
        held_out = self._held_out(data)
        n = self.n or min(len(held_out), len(data.train), 1024)
        seed = rng.alike(self.seed, module.seed)
        drawn, uniform = self._levels(module, n, seed)

        with averaged(trainer, module):

            def measured(examples: Examples, probes: Probes) -> Float64[Tensor, " m"]:
                images = validation_loss.chosen(len(examples), n, seed)
                return validation_loss.losses(
                    module.denoiser, examples, images, probes, seed=seed, batch=self.batch, device=module.device
                )

            loss, train_loss = measured(held_out, drawn), measured(data.train, drawn)
            by_level, train_by_level = measured(held_out, uniform), measured(data.train, uniform)

        values: dict[str, float] = {}
        for of in (loss, train_loss, loss - train_loss):
            mean, error = NAMES[len(values) : len(values) + 2]
            values |= {mean: float(of.mean()), error: float(of.std() / len(of) ** 0.5)}
        self._keep(trainer, module, uniform, by_level, train_by_level)
        self.log_row(trainer, module, values)
        internals.show_metrics(trainer, values)

    def is_waiting(self, trainer: Trainer, module: DiffusionModule) -> bool:
        """At the last step, too: its checkpoint then has what EarlyStopping made of it, for a run that is made longer."""
        return is_due(module, self.every) and self._acted != module.images_seen

    def act_now(self, trainer: Trainer, module: DiffusionModule) -> None:
        super().act_now(trainer, module)
        internals.tell_of_validation(trainer, module, NAMES)

    def on_run_start(self, trainer: Trainer, module: DiffusionModule) -> None:
        internals.act_on_validation(trainer)
        trainer.should_stop = trainer.should_stop or internals.early_stop(trainer) is not None

    def on_run_end(self, trainer: Trainer, module: DiffusionModule) -> None:
        if not any(row.images == module.images_seen for row in self.rows):
            self.act(trainer, module)
            internals.tell_of_validation(trainer, module, NAMES)
        if trainer.is_global_zero:
            print(self.sentence(), flush=True)

    # --- what comes out ---

    def _keep(
        self, trainer: Trainer, module: DiffusionModule, probes: Probes, loss: Tensor, train_loss: Tensor
    ) -> None:
        """The table by level, in the run folder and the pictures."""
        sigma_data = module.denoiser.sigma_data
        index = bin_index(sigma_to_log_snr(probes.sigma, sigma_data), self.bins, self.low, self.high)
        ones = torch.ones_like(loss)
        own, train = (moments(*moments_by_bin(index, of, ones, self.bins)) for of in (loss, train_loss))
        width = (self.high - self.low) / self.bins
        centres = self.low + width * (torch.arange(self.bins, dtype=torch.float64) + 0.5)
        columns = (
            centres,
            log_snr_to_sigma(centres, sigma_data),
            own.count,
            own.mean,
            own.standard_error,
            train.mean,
            train.standard_error,
        )
        here = [
            Level(module.images_seen, log_snr, sigma, int(count), *figures)
            for log_snr, sigma, count, *figures in zip(*(column.tolist() for column in columns), strict=True)
        ]
        self.rows = [row for row in self.rows if row.images != module.images_seen] + here
        if not trainer.is_global_zero:
            return
        validation.write(Path(trainer.default_root_dir), self.rows)
        log_values(trainer, _coarse(here))
        for callback in internals.callbacks(trainer):
            if isinstance(callback, NoiseLevels):
                callback.redraw(trainer, module)

    def sentence(self) -> str:
        """The last measurement in a sentence: where held-out images fare worst beside training images."""
        here = validation.latest(self.rows)
        if not here:
            return "validation: nothing was measured"
        worst = max(here, key=lambda row: (row.loss - row.train_loss) / (row.standard_error + row.train_standard_error))
        return (
            f"validation: held-out images differ most from training images at sigma {worst.sigma:.3g}: loss "
            f"{worst.loss:.4g} ± {worst.standard_error:.2g} and {worst.train_loss:.4g} ± {worst.train_standard_error:.2g}"
        )

    # --- checkpoints ---

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [Level(*row) for row in state_dict["rows"]]


def _coarse(rows: list[Level]) -> dict[str, float]:
    """For trackers: losses of both kinds in few bins, by the log-SNR of their middles."""
    values: dict[str, float] = {}
    for start in range(0, len(rows), COARSE):
        some = [row for row in rows[start : start + COARSE] if row.count]
        if not some:
            continue
        level = sum(row.log_snr for row in rows[start : start + COARSE]) / len(rows[start : start + COARSE])
        total = sum(row.count for row in some)
        for name, field in (("loss", "loss"), ("train_loss", "train_loss")):
            mean = sum(row.count * getattr(row, field) for row in some) / total
            values[f"validation/{name}/log_snr_{level:+05.1f}"] = mean
    return values
