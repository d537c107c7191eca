"""Training a denoiser: EDM or TrigFlow time conditioning, any noise law, any weighting."""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ..artifacts import TrainedWith
from ..data import Augment
from ..denoiser import Denoiser
from ..foundation import rng
from ..learning_rate import Constant, LearningRate
from ..noise import NoiseLaw
from ..objectives import denoising_loss
from .denoiser_module import Optimizer, StepOutputs, TrainingModule


class DiffusionModule(TrainingModule):
    """Denoising score matching on a position-addressed stream (EDM, arXiv 2206.00364).

    Args:
        net: the network, called as net(x, c_noise, label=None); see `lightning_diff.nets`.
        noise: law of the training noise levels; default EDM's LogNormal(-1.2, 1.2). The importance of one that adapts multiplies
            the loss, so that the objective stays that of its base law.
        weighting: weights over log-SNR; default `weighting.Uniform`, which is EDM's loss. Its parameters train with the network's.
        optimizer: takes the parameters, returns the optimiser; default Adam at 1e-3.
        learning_rate: factor on the optimiser's rate as a function of images seen; default constant.
        sigma_data: standard deviation of the data (a fact of the data: a recipe may leave it out).
        num_classes: number of classes, 0 for none (a fact of the data).
        time: what the network is conditioned on, of its noise level, ln(sigma)/4 ("edm") or the angle t ("trigflow").
        label_dropout: share of examples trained without their label, for classifier-free guidance, in [0, 1).
        compile: compile the network in place; checkpoints do not change.
        channels_last: keep weights and activations in NHWC, which is faster for convolutions on most GPUs.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        noise: NoiseLaw | None = None,
        weighting: nn.Module | None = None,
        optimizer: Optimizer = partial(torch.optim.Adam, lr=1e-3),  # noqa: B008 (immutable)
        learning_rate: LearningRate = Constant(),  # noqa: B008 (immutable)
        sigma_data: float = 0.5,
        num_classes: int = 0,
        time: Literal["edm", "trigflow"] = "edm",
        label_dropout: float = 0.0,
        compile: bool = False,
        channels_last: bool = False,
    ):
        if not 0 <= label_dropout < 1:
            raise ValueError(f"DiffusionModule: label_dropout must lie in [0, 1), got {label_dropout}")
        if label_dropout and not num_classes:
            raise ValueError("DiffusionModule: label_dropout needs labelled data; this data has no classes")
        super().__init__(
            Denoiser(net, sigma_data, time),
            noise=noise,
            weighting=weighting,
            optimizer=optimizer,
            learning_rate=learning_rate,
            num_classes=num_classes,
            compile=compile,
            channels_last=channels_last,
        )
        self.label_dropout = label_dropout

    def trained_with(self, augment: Augment | None) -> TrainedWith:
        return replace(super().trained_with(augment), label_dropout=self.label_dropout)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> StepOutputs:
        self._rekey_dropout(batch_idx)
        x0 = self._laid_out(batch["image"])
        sigma = self.noise.icdf(batch["u"]).to(x0.dtype)
        label, augment = batch.get("label"), batch.get("augment")
        loss = denoising_loss(self.denoiser, x0, sigma, batch["noise"], label, augment=augment)
        return self._outputs(batch, sigma, loss)

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, before the batch moves: drop a share of the labels by position; `num_classes` stands for "no label"."""
        batch = super().prepare_batch(batch)
        if self.label_dropout:
            drop = rng.uniform(self.seed, "label_dropout", batch["position"].numpy()) < self.label_dropout
            batch["label"] = torch.where(torch.from_numpy(drop), self.num_classes, batch["label"])
        return batch
