"""What the loss does at each noise level: curves, a heatmap over training, and tables."""

import time
from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ..artifacts import noise_levels_figure, noise_levels_measured
from ..artifacts.noise_levels import NoiseReport
from ..foundation.devices import Arriving
from ..foundation.processes import from_all
from ..modules.base import StepOutputs, is_of_critic
from ..modules.denoiser_module import TrainingModule
from ..modules.lightning_internals import State
from ..noise.moments import NoiseLevelMoments, merge, moments
from ..statistics import NoiseLevelStatistics
from .base import StepCallback
from .cadence import is_due
from .gradient_levels import GradientLevels, can_measure
from .trackers import log_picture, log_values, trackers

FLUSH_STEPS = 32  # losses are binned this many steps at a time: one pass over 32 batches costs as much as over one
GRADIENT_STEPS = 100  # one backward of 16 images in so many steps: below 1 % if it takes half a step or less
REDRAW_SECONDS = 600  # a picture takes one


class NoiseLevels(StepCallback[TrainingModule]):
    """Mean, variance, weight and gradient of the *unweighted* loss per log-SNR bin, as tables and one picture.

    The unweighted loss shows the training; the weighted one would show the weight. Training is cut into at most `windows` windows,
    the columns of the heatmap; when there are more, neighbours are merged. The curves show the last quarter of the run. Empty bins
    stay empty. Files: see `lightning_diff.artifacts.noise_levels`. They are written at the end, and during long runs every ten
    minutes. TensorBoard and W&B get loss, variance and gradient share in ten coarse bins at each window, and the picture
    whenever it is written.
    What a training step puts into outputs["details"], (B,) by name, is averaged in the same bins and shown, too: a consistency
    model's tangents.

    Exactness: every 32 steps the samples of all processes are put in order of stream position and then reduced, on the CPU in
    float64. The files are a function of the samples' losses alone: equal bytes for any number of processes and after any
    interruption, if the losses are equal bit for bit. A network's kernels round differently for other batch shapes; relative
    differences of 1e-7 can then show in the sixth digit.

    Gradients: the first process takes 16 images, evenly spaced over the step's batch, gives them levels in one coarse bin (the
    next one each time, among those that the noise law draws at least once in 256), and measures the mean of |grad loss|^2 by one
    backward of sum_i s_i loss_i with random signs s_i, of which the cross terms vanish in expectation (Hutchinson). The number
    of processes does not matter to it, and neither weights, .grad, buffers nor any generator's state change. It is left out
    for sharded networks, for modules other than DiffusionModule, and for networks without parameters.

    Args:
        bins, low, high: bins of log-SNR.
        windows: columns of the heatmap, >= 2.
        gradient_every: images between gradient measurements, 0 for none; None for every 100 steps.
    """

    ALONE: ClassVar[str] = "write noise_levels.csv and its picture"
    watches = TrainingModule

    def __init__(
        self,
        bins: int = 30,
        low: float = -10.0,
        high: float = 10.0,
        windows: int = 48,
        gradient_every: int | None = None,
    ):
        if windows < 2:
            raise ValueError(f"NoiseLevels: windows must be at least 2, got {windows}")
        if bins < 2:
            raise ValueError(f"NoiseLevels: bins must be at least 2, got {bins}")
        if gradient_every is not None and gradient_every < 0:
            raise ValueError(f"NoiseLevels: gradient_every must be 0 or positive, got {gradient_every}")
        self.statistics = NoiseLevelStatistics(bins, low, high)  # of the loss, in the window under way
        self.weights = NoiseLevelStatistics(bins, low, high)  # of the weight that multiplied it
        self.windows, self.gradient_every = windows, gradient_every
        self.images: list[int] = []  # at the end of each finished window
        self.moments = torch.zeros(0, 3, bins, dtype=torch.float64)  # (window, (count, mean, m2), bin), loss
        self.weight_moments = self.moments.clone()
        self.details: dict[str, NoiseLevelStatistics] = {}  # of what else the training step measured of each sample
        self.detail_moments: dict[str, Tensor] = {}  # as for the loss
        self.gradients = GradientLevels(bins, low, high)
        self._window_steps = 0
        self._buffer: list[tuple[Tensor, ...]] = []  # this process's, since the last flush
        self._coming: list[Arriving] = []  # of all processes, in the group of steps under way
        self._ready: list[Arriving] = []  # of the group before it, not yet binned

    @property
    def centres(self) -> Tensor:
        """log-SNR at the middle of each bin."""
        width = (self.statistics.high - self.statistics.low) / self.statistics.bins
        return self.statistics.low + width * (torch.arange(self.statistics.bins, dtype=torch.float64) + 0.5)

    # --- taking in losses ---

    def on_run_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self._window_steps = max(1, -(-trainer.max_steps // self.windows), self._window_steps)
        self.gradients.stream = None  # which was of the data of an earlier training
        self._gradient_images = self.gradient_every
        if self.gradient_every is None:
            self._gradient_images = GRADIENT_STEPS * module.batch_size
        if not self._gradient_images or not trainer.is_global_zero or not can_measure(trainer, module):
            self._gradient_images = None
        self._written = time.monotonic()

    def on_micro_batch_end(self, trainer: Trainer, module: TrainingModule, outputs: StepOutputs) -> None:
        if is_of_critic(outputs):
            return
        loss = outputs["per_sample_loss"]
        weight = outputs.get("weight")
        weight = torch.full_like(loss, torch.nan) if weight is None else weight
        details = outputs.get("details", {})
        if details and not self.details:
            self._add_details(list(details))
        self._buffer.append((outputs["position"], outputs["log_snr"], loss, weight, *details.values()))

    def on_step_end(self, trainer: Trainer, module: TrainingModule, outputs: StepOutputs) -> None:
        if is_due(module, self._gradient_images):
            self.gradients.measure(trainer, module)
        # Counted from the run's start, so that an interruption does not change which samples are reduced together.
        if self.finished_steps % self._window_steps == 0 or self.is_last(trainer):
            self._close_window(trainer, module)
        elif self.finished_steps % FLUSH_STEPS == 0:
            self._flush()

    def on_run_end(self, trainer: Trainer, module: TrainingModule) -> None:
        self._gather()
        if self._coming or self._ready or float(self.statistics.count.sum()):
            self._close_window(trainer, module)
        if not trainer.is_global_zero or not self.images:
            return
        print(self._write(trainer, module).sentence(), flush=True)

    def _add_details(self, names: list[str]) -> None:
        bins, low, high = self.statistics.bins, self.statistics.low, self.statistics.high
        self.details = {name: NoiseLevelStatistics(bins, low, high) for name in names}
        self.detail_moments = {name: torch.zeros(0, 3, bins, dtype=torch.float64) for name in names}

    def _gather(self) -> None:
        """The buffers of all processes start for the host."""
        if self._buffer:
            columns = [from_all(torch.cat(parts)).double() for parts in zip(*self._buffer, strict=True)]
            self._coming.append(Arriving(torch.stack(columns)))
            self._buffer.clear()

    def _flush(self) -> None:
        """A group of steps has ended, and is binned when it has arrived: at the end of the next one."""
        self._bin()
        self._gather()
        self._ready, self._coming = self._coming, []

    def _bin(self) -> None:
        """Take in the group that ended last."""
        if self._ready:
            samples = torch.cat([each.read() for each in self._ready], 1)
            self._ready = []
            _, log_snr, loss, weight, *details = samples[:, samples[0].argsort()]
            self.statistics.update(log_snr, loss)
            self.weights.update(log_snr, weight)
            for metric, values in zip(self.details.values(), details, strict=True):
                metric.update(log_snr, values)

    def _close_window(self, trainer: Trainer, module: TrainingModule) -> None:
        self._flush()
        self._bin()
        if not float(self.statistics.count.sum()):  # every step of it moved a critic: it goes on
            return
        loss, weight = (torch.stack(metric.state()) for metric in (self.statistics, self.weights))
        self.moments = torch.cat([self.moments, loss[None]])
        self.weight_moments = torch.cat([self.weight_moments, weight[None]])
        for name, metric in self.details.items():
            self.detail_moments[name] = torch.cat([self.detail_moments[name], torch.stack(metric.state())[None]])
            metric.reset()
        self.images.append(module.images_seen)
        self.statistics.reset()
        self.weights.reset()
        if len(self.images) > self.windows:
            pairs = [slice(start, start + 2) for start in range(0, len(self.images), 2)]
            self.moments = torch.stack([_merged(self.moments[pair]) for pair in pairs])
            self.weight_moments = torch.stack([_merged(self.weight_moments[pair]) for pair in pairs])
            self.detail_moments = {
                name: torch.stack([_merged(windows[pair]) for pair in pairs])
                for name, windows in self.detail_moments.items()
            }
            self.images = [self.images[pair][-1] for pair in pairs]
            self._window_steps *= 2
        if trainer.is_global_zero:
            self._log(trainer, loss)
            if time.monotonic() - self._written > REDRAW_SECONDS:
                self._write(trainer, module)
                self._written = time.monotonic()

    def redraw(self, trainer: Trainer, module: TrainingModule) -> None:
        """Write tables and picture again, if there are any yet: what stands beside the training loss has changed.

        On the first process, between two steps.
        """
        if self.images:
            self._write(trainer, module)

    def _write(self, trainer: Trainer, module: TrainingModule) -> NoiseReport:
        path = Path(trainer.default_root_dir)
        report = self.report(path.name, module.denoiser.sigma_data)
        noise_levels_figure.write(path, report)
        log_picture(trainer, "noise_levels", path / noise_levels_figure.NAME)
        return report

    # --- what comes out ---

    def curve(self) -> NoiseLevelMoments:
        """Moments of the unweighted loss over the last quarter of the windows."""
        return moments(*_merged(self.moments[self._last_quarter()]))

    def report(self, name: str, sigma_data: float) -> NoiseReport:
        """Everything measured so far, for the run of this name."""
        last = self._last_quarter()
        since = self.images[last.start - 1] if last.start else 0
        return noise_levels_measured.report(
            name,
            self.centres,
            sigma_data,
            self.curve(),
            moments(*_merged(self.weight_moments[last])).mean,
            self.gradients.square(since),
            list(self.images),
            torch.stack([torch.stack(moments(*window)) for window in self.moments]),
            since,
            {name: moments(*_merged(windows[last])).mean for name, windows in self.detail_moments.items()},
        )

    def _last_quarter(self) -> slice:
        return slice(len(self.images) - max(1, len(self.images) // 4), len(self.images))

    def _log(self, trainer: Trainer, window: Tensor) -> None:
        """The window's mean and variance in coarse bins; not into metrics.csv, beside which the tables stand."""
        if not trackers(trainer):
            return
        groups = -(-self.statistics.bins // self.gradients.coarse)
        padded = torch.zeros(3, groups * self.gradients.coarse, dtype=window.dtype)
        padded[:, : self.statistics.bins] = window
        _, mean, variance = moments(*_merged(padded.unflatten(1, (groups, self.gradients.coarse)).permute(2, 0, 1)))
        report = self.report("", 1.0)
        values: dict[str, float] = {}
        for group in range(groups):
            bins = slice(group * self.gradients.coarse, (group + 1) * self.gradients.coarse)
            here = {
                "loss": float(mean[group]),
                "variance": float(variance[group]),
                "gradient_share": float(report.columns["gradient_share"][bins].sum()),
            }
            level = float(self.centres[bins].mean())
            values |= {f"noise_levels/{name}/log_snr_{level:+05.1f}": v for name, v in here.items() if v == v}
        log_values(trainer, values)

    # --- checkpoints ---

    def state_dict(self) -> State:
        self._bin()
        self._gather()
        coming = [torch.zeros(4 + len(self.details), 0, dtype=torch.float64), *(each.read() for each in self._coming)]
        return {
            "images": list(self.images),
            "window_steps": self._window_steps,
            "moments": self.moments,
            "weights": self.weight_moments,
            "window": torch.stack([torch.stack(metric.state()) for metric in (self.statistics, self.weights)]),
            "pending": torch.cat(coming, 1),
            "details": {
                name: {"moments": self.detail_moments[name], "window": torch.stack(metric.state())}
                for name, metric in self.details.items()
            },
            "gradients": self.gradients.state(),
        }

    def load_state_dict(self, state_dict: State) -> None:
        self.images, self._window_steps = list(state_dict["images"]), state_dict["window_steps"]
        self.moments, self.weight_moments = state_dict["moments"], state_dict["weights"]
        if details := state_dict["details"]:
            self._add_details(list(details))
        for name, detail in details.items():
            self.detail_moments[name], metric = detail["moments"], self.details[name]
            metric.count, metric.mean, metric.m2 = detail["window"].unbind(0)
        pending, self._ready = state_dict["pending"], []
        self._coming = [Arriving(pending)] if pending.shape[1] else []
        self.gradients.load(state_dict["gradients"])
        for metric, window in zip((self.statistics, self.weights), state_dict["window"], strict=True):
            metric.count, metric.mean, metric.m2 = window.unbind(0)


def _merged(moments: Tensor) -> Tensor:
    """(window, 3, bin) -> (3, bin)."""
    total = tuple(moments[0])
    for window in moments[1:]:
        total = merge(total, tuple(window))
    return torch.stack(total)
