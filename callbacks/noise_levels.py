"""What the loss does at each noise level: curves, a heatmap over training, and a table."""

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_diff.atomic import replacing
from lightning_diff.noise import log_snr_to_sigma
from lightning_diff.statistics import NoiseLevelMoments, NoiseLevelStatistics, merge

COLUMNS = (
    "log_snr",
    "sigma",
    "count",
    "mean",
    "standard_error",
    "variance",
    "coefficient_of_variation",
    "weight",
    "density",
)
FLUSH_STEPS = 32  # losses are binned this many steps at a time: one pass over 32 batches costs as much as over one


class NoiseLevels(Callback):
    """Mean and variance of the *unweighted* loss per log-SNR bin, as `noise_levels.csv` and `noise_levels.png`.

    The unweighted loss shows the training; the weighted one would show the weight. Training is cut into at most `windows` windows,
    the columns of the heatmap; when there are more, neighbours are merged. The curves show the last quarter of the run. Empty bins
    stay empty.

    Args:
        bins, low, high: bins of log-SNR.
        windows: columns of the heatmap, >= 2.
    """

    def __init__(self, bins: int = 30, low: float = -10.0, high: float = 10.0, windows: int = 48):
        if windows < 2:
            raise ValueError(f"NoiseLevels: windows must be at least 2, got {windows}")
        self.statistics = NoiseLevelStatistics(bins, low, high)
        self.windows = windows
        self.images: list[int] = []  # at the end of each finished window
        self.moments = torch.zeros(0, 3, bins, dtype=torch.float64)  # (window, (count, mean, m2), bin)
        self._buffer: list[tuple[Tensor, Tensor]] = []

    @property
    def centres(self) -> Tensor:
        """log-SNR at the middle of each bin."""
        width = (self.statistics.high - self.statistics.low) / self.statistics.bins
        return self.statistics.low + width * (torch.arange(self.statistics.bins, dtype=torch.float64) + 0.5)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.statistics.to(pl_module.device)
        if not trainer.is_global_zero:
            self.statistics.reset()  # a checkpoint holds the sum over processes; the first one carries it on
        self._step = trainer.global_step
        self._window_steps = max(1, -(-trainer.max_steps // self.windows))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._buffer.append((outputs["log_snr"], outputs["per_sample_loss"]))
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._step % self._window_steps == 0 or self._step == trainer.max_steps:
            self._close_window(pl_module.images_seen)
        elif len(self._buffer) >= FLUSH_STEPS:
            self._flush()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and self.images:
            self.write(Path(trainer.default_root_dir), pl_module)

    def _flush(self) -> None:
        if self._buffer:
            log_snr, loss = (torch.cat(parts) for parts in zip(*self._buffer, strict=True))
            self.statistics.update(log_snr, loss)
            self._buffer.clear()

    def _synced(self) -> Tensor:
        """(count, mean, m2) of the window under way, over all processes."""
        self._flush()
        with self.statistics.sync_context():
            return torch.stack(self.statistics.state()).cpu()

    def _close_window(self, images: int) -> None:
        self.moments = torch.cat([self.moments, self._synced()[None]])
        self.images.append(images)
        self.statistics.reset()
        if len(self.images) > self.windows:
            pairs = [slice(start, start + 2) for start in range(0, len(self.images), 2)]
            self.moments = torch.stack([_merged(self.moments[pair]) for pair in pairs])
            self.images = [self.images[pair][-1] for pair in pairs]

    def curve(self) -> NoiseLevelMoments:
        """Moments over the last quarter of the windows."""
        count, mean, m2 = _merged(self.moments[-max(1, len(self.images) // 4) :])
        nan = torch.full_like(mean, torch.nan)
        return NoiseLevelMoments(
            count, torch.where(count > 0, mean, nan), torch.where(count > 1, m2 / (count - 1).clamp(min=1), nan)
        )

    def write(self, folder: Path, pl_module: Any) -> None:
        """The table and the picture."""
        levels, moments = self.centres, self.curve()
        sigma = log_snr_to_sigma(levels, pl_module.denoiser.sigma_data)
        density = pl_module.noise.log_prob(sigma).exp() / 2  # with respect to log-SNR = const - 2 ln sigma
        weight = pl_module.weighting(levels.to(pl_module.device), moments.mean.to(pl_module.device)).detach().cpu()
        columns = (
            levels, sigma, moments.count, moments.mean, moments.standard_error,
            moments.variance, moments.coefficient_of_variation, weight, density,
        )  # fmt: skip
        with replacing(folder / "noise_levels.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in torch.stack([column.double() for column in columns], 1).tolist():
                writer.writerow("" if value != value else f"{value:.6g}" for value in row)
        with replacing(folder / "noise_levels.png") as temporary:
            self._figure(moments, weight, density).savefig(temporary, dpi=110)

    def _figure(self, moments: NoiseLevelMoments, weight: Tensor, density: Tensor) -> Figure:
        figure = Figure(figsize=(12, 8), layout="constrained")
        (top_left, top_right), (bottom_left, bottom_right) = figure.subplots(2, 2)
        levels = self.centres
        seen = levels[moments.count > 0]
        limits = (float(seen.min()) - 0.5, float(seen.max()) + 0.5)

        x, p = levels.numpy(), density.numpy()
        mean, error, variance = (part.numpy() for part in (moments.mean, moments.standard_error, moments.variance))
        top_left.errorbar(x, mean, error, fmt="o-", ms=3, lw=1, capsize=2)
        top_left.set(yscale="log", title="Unweighted loss: mean ± standard error", ylabel="|F − target|² per dimension")
        top_right.plot(x, variance, "o-", ms=3, lw=1)
        top_right.set(yscale="log", title="Variance of the unweighted loss", ylabel="variance")
        bottom_left.plot(x, p, "--", color="grey", lw=1, label="noise law p: how often a level is drawn")
        bottom_left.plot(x, p * weight.numpy(), lw=1.5, label="p · weight: where the training effort goes")
        bottom_left.set(title="Training effort over noise levels", ylabel="density")
        bottom_left.legend(frameon=False, fontsize=8)
        for axes in (top_left, top_right, bottom_left):
            axes.set(xlim=limits, xlabel="log-SNR   (← noisier      cleaner →)")
            axes.grid(alpha=0.3)
        _heatmap(bottom_right, self.moments, self.images, self.statistics.low, self.statistics.high)
        bottom_right.set_ylim(*limits)
        return figure

    def state_dict(self) -> dict[str, Any]:
        return {"window": self._synced(), "images": list(self.images), "moments": self.moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.images, self.moments = state_dict["images"], state_dict["moments"]
        self.statistics.count, self.statistics.mean, self.statistics.m2 = state_dict["window"].unbind(0)


def _merged(moments: Tensor) -> Tensor:
    """(window, 3, bin) -> (3, bin)."""
    total = tuple(moments[0])
    for window in moments[1:]:
        total = merge(total, tuple(window))
    return torch.stack(total)


def _heatmap(axes: Axes, moments: Tensor, images: list[int], low: float, high: float) -> None:
    """log10 variance of the loss, training time by log-SNR; bins with fewer than two samples are left blank."""
    count, _, m2 = moments.unbind(1)
    variance = torch.where(count > 1, m2 / (count - 1).clamp(min=1), torch.nan)
    edges_x = torch.tensor([0, *images], dtype=torch.float64) / 1000
    edges_y = torch.linspace(low, high, moments.shape[2] + 1)
    mesh = axes.pcolormesh(
        edges_x.numpy(), edges_y.numpy(), variance.log10().T.numpy(), cmap="viridis", rasterized=True
    )
    axes.figure.colorbar(mesh, ax=axes, label="log10 variance")
    axes.set(title="Variance of the loss through training", xlabel="thousand images seen", ylabel="log-SNR")
