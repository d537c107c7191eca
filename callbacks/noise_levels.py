"""What the loss does at each noise level: curves, a heatmap over training, and tables."""

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from ..artifacts import noise_levels
from ..artifacts.metrics_table import MetricsTable
from ..data.stream import Stream
from ..foundation import rng
from ..foundation.processes import from_all
from ..modules import DiffusionModule
from ..noise import log_snr_to_sigma, sigma_to_log_snr
from ..noise.moments import NoiseLevelMoments, bin_index, merge, moments
from ..objectives import denoising_loss
from ..statistics import NoiseLevelStatistics
from .cadence import is_due

FLUSH_STEPS = 32  # losses are binned this many steps at a time: one pass over 32 batches costs as much as over one
GRADIENT_STEPS = 100  # one backward of GRADIENT_SAMPLES in so many steps: below 1 % if it takes half a step or less
GRADIENT_SAMPLES = 16
COARSE_BINS = 10
REDRAW_SECONDS = 600  # a picture takes one


class NoiseLevels(Callback):
    """Mean, variance, weight and gradient of the *unweighted* loss per log-SNR bin, as tables and one picture.

    The unweighted loss shows the training; the weighted one would show the weight. Training is cut into at most `windows` windows,
    the columns of the heatmap; when there are more, neighbours are merged. The curves show the last quarter of the run. Empty bins
    stay empty. Files: see `lightning_diff.artifacts.noise_levels`. They are written at the end, and during long runs every ten
    minutes. TensorBoard and W&B get loss, variance and gradient share in ten coarse bins at each window, and the picture at the
    end.
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
        self.coarse = -(-bins // COARSE_BINS)  # fine bins in a coarse one
        self.images: list[int] = []  # at the end of each finished window
        self.moments = torch.zeros(0, 3, bins, dtype=torch.float64)  # (window, (count, mean, m2), bin), loss
        self.weight_moments = self.moments.clone()
        self.details: dict[str, NoiseLevelStatistics] = {}  # of what else the training step measured of each sample
        self.detail_moments: dict[str, Tensor] = {}  # as for the loss
        self.gradients: list[tuple[int, int, float]] = []  # (images seen, coarse bin, mean |grad loss|^2)
        self._window_steps = 0
        self._stream: Stream | None = None
        self._buffer: list[tuple[Tensor, ...]] = []  # this process's, since the last flush
        self._pending = torch.zeros(4, 0, dtype=torch.float64)  # from a checkpoint: of all processes, not yet binned

    @property
    def centres(self) -> Tensor:
        """log-SNR at the middle of each bin."""
        width = (self.statistics.high - self.statistics.low) / self.statistics.bins
        return self.statistics.low + width * (torch.arange(self.statistics.bins, dtype=torch.float64) + 0.5)

    # --- taking in losses ---

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step, self._stream = trainer.global_step, None
        self._window_steps = max(1, -(-trainer.max_steps // self.windows), self._window_steps)
        self._gradient_images = self.gradient_every
        if self.gradient_every is None:
            self._gradient_images = GRADIENT_STEPS * pl_module.batch_size
        if not self._gradient_images or not trainer.is_global_zero or not _can_measure(trainer, pl_module):
            self._gradient_images = None
        self._written = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs["per_sample_loss"]
        weight = outputs.get("weight")
        weight = torch.full_like(loss, torch.nan) if weight is None else weight
        details = outputs.get("details", {})
        if details and not self.details:
            self._add_details(list(details))
        self._buffer.append((outputs["position"], outputs["log_snr"], loss, weight, *details.values()))
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if is_due(pl_module, self._gradient_images):
            self._measure_gradient(trainer, pl_module)
        # Counted from the run's start, so that an interruption does not change which samples are reduced together.
        if self._step % self._window_steps == 0 or self._step == trainer.max_steps:
            self._close_window(trainer, pl_module)
        elif self._step % FLUSH_STEPS == 0:
            self._flush()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._gather()
        if self._pending.shape[1] or float(self.statistics.count.sum()):
            self._close_window(trainer, pl_module)
        if not trainer.is_global_zero or not self.images:
            return
        path = Path(trainer.default_root_dir)
        report = self.report(path.name, pl_module.denoiser.sigma_data)
        report.write(path)
        print(report.sentence(), flush=True)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # W&B
                logger.log_image(key="noise_levels", images=[str(path / "noise_levels.png")], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(
                    "noise_levels", noise_levels.draw(report), trainer.global_step, close=False
                )

    def _add_details(self, names: list[str]) -> None:
        bins, low, high = self.statistics.bins, self.statistics.low, self.statistics.high
        self.details = {name: NoiseLevelStatistics(bins, low, high) for name in names}
        self.detail_moments = {name: torch.zeros(0, 3, bins, dtype=torch.float64) for name in names}
        self._pending = torch.zeros(4 + len(names), 0, dtype=torch.float64)

    def _gather(self) -> None:
        """The buffers of all processes become pending."""
        if self._buffer:
            columns = [from_all(torch.cat(parts)) for parts in zip(*self._buffer, strict=True)]
            self._pending = torch.cat([self._pending, torch.stack([part.cpu().double() for part in columns])], 1)
            self._buffer.clear()

    def _flush(self) -> None:
        self._gather()
        if self._pending.shape[1]:
            _, log_snr, loss, weight, *details = self._pending[:, self._pending[0].argsort()]
            self.statistics.update(log_snr, loss)
            self.weights.update(log_snr, weight)
            for metric, values in zip(self.details.values(), details, strict=True):
                metric.update(log_snr, values)
            self._pending = self._pending[:, :0]

    def _close_window(self, trainer: Trainer, pl_module: Any) -> None:
        self._flush()
        loss, weight = (torch.stack(metric.state()) for metric in (self.statistics, self.weights))
        self.moments = torch.cat([self.moments, loss[None]])
        self.weight_moments = torch.cat([self.weight_moments, weight[None]])
        for name, metric in self.details.items():
            self.detail_moments[name] = torch.cat([self.detail_moments[name], torch.stack(metric.state())[None]])
            metric.reset()
        self.images.append(pl_module.images_seen)
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
                path = Path(trainer.default_root_dir)
                self.report(path.name, pl_module.denoiser.sigma_data).write(path)
                self._written = time.monotonic()

    # --- gradients ---

    def _measure_gradient(self, trainer: Trainer, pl_module: Any) -> None:
        """Mean of |grad loss|^2 over the levels of one coarse bin."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        u = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
        drawn = sigma_to_log_snr(pl_module.noise.icdf(u.to(pl_module.device)), pl_module.denoiser.sigma_data)
        candidates = (self._bin(drawn) // self.coarse).unique().tolist()
        chosen = candidates[len(self.gradients) % len(candidates)]

        size = pl_module.batch_size
        n = min(GRADIENT_SAMPLES, size)
        position = pl_module.images_seen - size + torch.arange(n) * size // n
        if self._stream is None:
            self._stream = Stream(data.data, data.seed)  # kept, because it sorts an epoch's order once
        batch = data.on_before_batch_transfer(self._stream.__getitems__(position.numpy()), 0)
        positive = torch.from_numpy(rng.uniform(data.seed, "gradient sign", position.numpy()) < 0.5)
        width = self.coarse * (self.statistics.high - self.statistics.low) / self.statistics.bins
        log_snr = self.statistics.low + width * (chosen + (torch.arange(n) + 0.5) / n)
        batch |= {"sigma": log_snr_to_sigma(log_snr.clamp(max=self.statistics.high), pl_module.denoiser.sigma_data)}
        batch = {name: value.to(pl_module.device) for name, value in batch.items()}

        denoiser = pl_module.denoiser
        buffers = {name: buffer.clone() for name, buffer in denoiser.named_buffers()}
        parameters = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        compiled = denoiser.net._compiled_call_impl is not None  # it would compile again for this batch size
        with (
            torch.random.fork_rng(devices),
            torch.enable_grad(),
            torch.compiler.set_stance("force_eager") if compiled else nullcontext(),
        ):
            with trainer.precision_plugin.forward_context():
                loss = denoising_loss(
                    denoiser,
                    batch["image"],
                    batch["sigma"],
                    batch["noise"],
                    batch.get("label"),
                    augment=batch.get("augment"),
                )
            signed = torch.where(positive.to(loss.device), loss, -loss).sum()
            # Not backward(): that would fill .grad and wake DDP's hooks.
            gradients = torch.autograd.grad(signed, parameters, allow_unused=True)
        for name, buffer in denoiser.named_buffers():
            buffer.copy_(buffers[name])
        norms = torch._foreach_norm([gradient for gradient in gradients if gradient is not None])
        self.gradients.append((pl_module.images_seen, chosen, float(torch.stack(norms).square().sum()) / n))

    def _gradient_square(self, since: int) -> Tensor:
        """Mean |grad loss|^2 per bin after `since` images; of the whole run for a coarse bin that was not measured since.

        Between the middles of coarse bins its logarithm is interpolated, since steps would show the binning.
        """
        bins = self.statistics.bins
        places, logs = [], []
        for coarse in sorted({coarse for _, coarse, _ in self.gradients}):
            measured = [(images, value) for images, other, value in self.gradients if other == coarse]
            values = [value for images, value in measured if images > since] or [value for _, value in measured]
            if sum(values) > 0:
                places.append((coarse + 0.5) * self.coarse - 0.5)
                logs.append(math.log(sum(values) / len(values)))
        if not places:
            return torch.full((bins,), torch.nan, dtype=torch.float64)
        index, half = np.arange(bins), self.coarse / 2
        square = torch.from_numpy(np.exp(np.interp(index, places, logs)))
        unknown = (index < places[0] - half) | (index > places[-1] + half)
        return torch.where(torch.from_numpy(unknown), torch.nan, square)

    # --- what comes out ---

    def curve(self) -> NoiseLevelMoments:
        """Moments of the unweighted loss over the last quarter of the windows."""
        return moments(*_merged(self.moments[self._last_quarter()]))

    def report(self, name: str, sigma_data: float) -> noise_levels.NoiseReport:
        """Everything measured so far, for the run of this name."""
        last = self._last_quarter()
        since = self.images[last.start - 1] if last.start else 0
        return noise_levels.report(
            name,
            self.centres,
            sigma_data,
            self.curve(),
            moments(*_merged(self.weight_moments[last])).mean,
            self._gradient_square(since),
            list(self.images),
            torch.stack([torch.stack(moments(*window)) for window in self.moments]),
            since,
            {name: moments(*_merged(windows[last])).mean for name, windows in self.detail_moments.items()},
        )

    def _last_quarter(self) -> slice:
        return slice(len(self.images) - max(1, len(self.images) // 4), len(self.images))

    def _bin(self, log_snr: Tensor) -> Tensor:
        return bin_index(log_snr, self.statistics.bins, self.statistics.low, self.statistics.high)

    def _log(self, trainer: Trainer, window: Tensor) -> None:
        """The window's mean and variance in coarse bins; not into metrics.csv, beside which the tables stand."""
        loggers = [logger for logger in trainer.loggers if not isinstance(logger, MetricsTable)]
        if not loggers:
            return
        groups = -(-self.statistics.bins // self.coarse)
        padded = torch.zeros(3, groups * self.coarse, dtype=window.dtype)
        padded[:, : self.statistics.bins] = window
        _, mean, variance = moments(*_merged(padded.unflatten(1, (groups, self.coarse)).permute(2, 0, 1)))
        report = self.report("", 1.0)
        values: dict[str, float] = {}
        for group in range(groups):
            bins = slice(group * self.coarse, (group + 1) * self.coarse)
            here = {
                "loss": float(mean[group]),
                "variance": float(variance[group]),
                "gradient_share": float(report.columns["gradient_share"][bins].sum()),
            }
            level = float(self.centres[bins].mean())
            values |= {f"noise_levels/{name}/log_snr_{level:+05.1f}": v for name, v in here.items() if v == v}
        for logger in loggers:
            logger.log_metrics(values, step=trainer.global_step)

    # --- checkpoints ---

    def state_dict(self) -> dict[str, Any]:
        self._gather()
        return {
            "images": list(self.images),
            "window_steps": self._window_steps,
            "moments": self.moments,
            "weights": self.weight_moments,
            "window": torch.stack([torch.stack(metric.state()) for metric in (self.statistics, self.weights)]),
            "pending": self._pending,
            "details": {
                name: {"moments": self.detail_moments[name], "window": torch.stack(metric.state())}
                for name, metric in self.details.items()
            },
            "gradients": [list(entry) for entry in self.gradients],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.images, self._window_steps = list(state_dict["images"]), state_dict["window_steps"]
        self.moments, self.weight_moments = state_dict["moments"], state_dict["weights"]
        if details := state_dict["details"]:
            self._add_details(list(details))
        for name, detail in details.items():
            self.detail_moments[name], metric = detail["moments"], self.details[name]
            metric.count, metric.mean, metric.m2 = detail["window"].unbind(0)
        self._pending = state_dict["pending"]
        self.gradients = [(int(images), int(bin), float(value)) for images, bin, value in state_dict["gradients"]]
        for metric, window in zip((self.statistics, self.weights), state_dict["window"], strict=True):
            metric.count, metric.mean, metric.m2 = window.unbind(0)


def _can_measure(trainer: Trainer, pl_module: Any) -> bool:
    """Whether one process alone can run the network backwards."""
    return (
        isinstance(pl_module, DiffusionModule)
        and isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        and any(parameter.requires_grad for parameter in pl_module.denoiser.parameters())
        and not any(isinstance(part, nn.SyncBatchNorm) for part in pl_module.denoiser.modules())
    )


def _merged(moments: Tensor) -> Tensor:
    """(window, 3, bin) -> (3, bin)."""
    total = tuple(moments[0])
    for window in moments[1:]:
        total = merge(total, tuple(window))
    return torch.stack(total)
