"""How large the gradient of the unweighted loss is at each noise level."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Bool, Float64
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from ..condition import of_batch
from ..data.stream import Stream
from ..denoiser import Denoiser
from ..foundation import rng
from ..foundation.devices import own_random_numbers
from ..modules import DiffusionModule
from ..modules.base import CountedModule
from ..modules.compiling import is_compiled
from ..modules.denoiser_module import TrainingModule
from ..modules.lightning_internals import datamodule
from ..modules.training_data import TrainingData, training_data
from ..noise import log_snr_to_sigma, sigma_to_log_snr
from ..noise.moments import bin_index
from ..objectives import denoising_loss

SAMPLES = 16
COARSE_BINS = 10


class GradientLevels:
    """Mean of |grad loss|^2 in coarse bins of log-SNR, measured on images of the step, one bin at a time.

    `measure` takes 16 images, evenly spaced over the step's batch, gives them levels in one coarse bin (the next one each time,
    among those that the noise law draws at least once in 256), and takes the gradient of sum_i s_i loss_i with random signs s_i, in
    whose square the cross terms vanish in expectation (Hutchinson). It changes neither weights, .grad, buffers nor any generator.

    Args:
        bins, low, high: fine bins of log-SNR; a coarse one is a tenth of them, rounded up.
    """

    def __init__(self, bins: int, low: float, high: float):
        self.bins, self.low, self.high = bins, low, high
        self.coarse = -(-bins // COARSE_BINS)  # fine bins in a coarse one
        self.measured: list[tuple[int, int, float]] = []  # (images seen, coarse bin, mean |grad loss|^2)
        self.stream: Stream | None = None

    def measure(self, trainer: Trainer, module: TrainingModule) -> None:
        """After an optimiser step, over the levels of one coarse bin."""
        candidates = self._drawn_bins(module)
        chosen = candidates[len(self.measured) % len(candidates)]
        batch, positive = self._batch(trainer, module)
        width = self.coarse * (self.high - self.low) / self.bins
        n = len(positive)
        log_snr = self.low + width * (chosen + (torch.arange(n) + 0.5) / n)
        batch["sigma"] = log_snr_to_sigma(log_snr.clamp(max=self.high), module.denoiser.sigma_data)
        batch = {name: value.to(module.device) for name, value in batch.items()}
        square = gradient_square(module.denoiser, batch, positive, trainer.precision_plugin.forward_context())
        self.measured.append((module.images_seen, chosen, square / n))

    def _drawn_bins(self, module: TrainingModule) -> list[int]:
        """The coarse bins that the noise law draws at least once in 256."""
        u = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
        drawn = sigma_to_log_snr(module.noise.icdf(u.to(module.device)), module.denoiser.sigma_data)
        found: list[int] = (bin_index(drawn, self.bins, self.low, self.high) // self.coarse).unique().tolist()
        return found

    def _batch(self, trainer: Trainer, module: CountedModule) -> tuple[dict[str, Tensor], Bool[Tensor, " n"]]:
        """Images of the step just finished, and which of them have a positive sign."""
        data, size = training_data(trainer), module.batch_size
        n = min(SAMPLES, size)
        position = module.images_seen - size + torch.arange(n) * size // n
        if self.stream is None:
            self.stream = Stream(data.data, data.seed)  # kept, because it sorts an epoch's order once
        batch = data.on_before_batch_transfer(self.stream.__getitems__(position.numpy()), 0)
        return batch, torch.from_numpy(rng.uniform(data.seed, "gradient sign", position.numpy()) < 0.5)

    def square(self, since: int) -> Float64[Tensor, " bins"]:
        """Mean |grad loss|^2 per bin after `since` images; of the whole run for a coarse bin that was not measured since.

        Between the middles of coarse bins its logarithm is interpolated, since steps would show the binning.
        """
        places, logs = [], []
        for coarse in sorted({coarse for _, coarse, _ in self.measured}):
            measured = [(images, value) for images, other, value in self.measured if other == coarse]
            values = [value for images, value in measured if images > since] or [value for _, value in measured]
            if sum(values) > 0:
                places.append((coarse + 0.5) * self.coarse - 0.5)
                logs.append(math.log(sum(values) / len(values)))
        if not places:
            return torch.full((self.bins,), torch.nan, dtype=torch.float64)
        index, half = np.arange(self.bins), self.coarse / 2
        square = torch.from_numpy(np.exp(np.interp(index, places, logs)))
        unknown = (index < places[0] - half) | (index > places[-1] + half)
        return torch.where(torch.from_numpy(unknown), torch.nan, square)

    def state(self) -> list[list[int | float]]:
        return [list(entry) for entry in self.measured]

    def load(self, state: Sequence[Sequence[int | float]]) -> None:
        self.measured = [(int(images), int(coarse), float(value)) for images, coarse, value in state]


def gradient_square(
    denoiser: Denoiser, batch: dict[str, Tensor], positive: Bool[Tensor, " n"], precision: AbstractContextManager[None]
) -> float:
    """|grad sum_i ±loss_i|^2, which changes neither weights, .grad, buffers nor any generator's state.

    Args:
        denoiser: of which one process has all weights.
        batch: "image", "sigma", "noise" and, where there are some, "label" and "augment".
        positive: whether an example's sign is +.
        precision: in which the loss is computed; the gradient is not.
    """
    buffers = {name: buffer.clone() for name, buffer in denoiser.named_buffers()}
    parameters = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    device = batch["image"].device
    compiled = is_compiled(denoiser.net)  # it would compile again for this batch size
    with (
        own_random_numbers(device),
        torch.enable_grad(),
        torch.compiler.set_stance("force_eager") if compiled else nullcontext(),
    ):
        with precision:
            label, augment = of_batch(batch), batch.get("augment")
            loss = denoising_loss(denoiser, batch["image"], batch["sigma"], batch["noise"], label, augment=augment)
        signed = torch.where(positive.to(loss.device), loss, -loss).sum()
        # Not backward(): that would fill .grad and wake DDP's hooks.
        gradients = torch.autograd.grad(signed, parameters, allow_unused=True)
    for name, buffer in denoiser.named_buffers():
        buffer.copy_(buffers[name])
    norms = torch._foreach_norm([gradient for gradient in gradients if gradient is not None])
    return float(torch.stack(norms).square().sum())


def can_measure(trainer: Trainer, module: CountedModule) -> bool:
    """Whether one process alone can run the network backwards, the loss is the denoising one, and examples can be had again."""
    return (
        isinstance(module, DiffusionModule)
        and isinstance(datamodule(trainer), TrainingData)
        and isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        and any(parameter.requires_grad for parameter in module.denoiser.parameters())
        and not any(isinstance(part, nn.SyncBatchNorm) for part in module.denoiser.modules())
    )
