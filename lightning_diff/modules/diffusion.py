"""Training a denoiser: EDM or TrigFlow time conditioning, any noise law, any weighting."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..artifacts import TrainedWith
from ..condition import Condition, into_batch, of_batch, takes_condition, without
from ..data import Augment
from ..denoiser import Denoiser, Prediction, Time, TimeName, default_time
from ..foundation import rng
from ..foundation.errors import UserError
from ..learning_rate import Constant, LearningRate
from ..nets.lora import LoRA
from ..noise import NoiseLaw
from ..objectives import denoising_loss
from . import pretrained
from .compiling import Compile
from .denoiser_module import Optimizer, StepOutputs, TrainingModule
from .sharding import is_sharded


class DiffusionModule(TrainingModule):
    """Denoising score matching on a position-addressed stream (EDM, arXiv 2206.00364), from new weights or a trained model's.

    With `start`, step 0 has the weights of that model: its averaged ones, by name, every one of them. The images may be others; the
    optimiser is new. sigma_data and time are the model's, since the weights are for these (but see `retime`). A run that resumes
    does not look at `start` again.

    Args:
        net: the network, called as net(x, c_noise, label=None); see `lightning_diff.nets`. With `start`, None for one like the
            model's with the classes and shape of the data, a mapping for one like it but for these arguments.
        start: run, model folder or file, or EDM pickle (.pkl), to start from; None for new weights.
        fresh: patterns of names of weights that are not taken from `start`: "conditioning.label.*" for other classes.
        lora: train adapters of the weights of `start` instead of these; they are merged into the weights in what is saved. Weights
            that are `fresh` are trained whole.
        retime: train the weights of `start` on another `time` than their own, which they have to learn: sCM's derivative wants one
            that the network changes smoothly with (docs/consistency.md).
        noise: law of the training noise levels; default EDM's LogNormal(-1.2, 1.2). The importance of one that adapts multiplies
            the loss, so that the objective stays that of its base law.
        weighting: weights over log-SNR; default `weighting.Uniform`, which is EDM's loss. Its parameters train with the network's.
        optimizer: takes the parameters, returns the optimiser; default Adam at 1e-3.
        learning_rate: factor on the optimiser's rate as a function of images seen; default constant.
        sigma_data: standard deviation of the data (a fact of the data: a recipe may leave it out); None for that of
            `start`, or 0.5.
        num_classes: number of classes, 0 for none (a fact of the data); None for that of `start`, or none.
        time: what the network is conditioned on, of its noise level: ln(sigma)/4 ("edm"), the angle t ("trigflow"),
            sigma / (1 + sigma) ("flow"), or a time of `denoiser`; None for that of `start`, or what suits prediction.
        prediction: the network's output: EDM's or TrigFlow's F ("edm", "trigflow"), the noise ("epsilon"), a velocity
            ("v_prediction", or "flow", eps - x0) or the image ("sample"). The loss is that of F whichever it is, so that weightings
            mean the same: the network's own error counts with the square of its factor in F. None for that of `start`, or the
            one that is called as `time` is.
        bounds: (low, high) of the data's values, [-1, 1] for images, to which the output is clamped (see `Denoiser`); None for
            those of `start`, or none.
        condition_dropout: share of examples trained without their label or condition, for classifier-free guidance, in [0, 1). What
            takes its place is "no label", or the null condition of the data: the empty prompt's embedding.
        compile: compile the network's blocks in place, or what a `Compile` says; checkpoints do not change.
        channels_last: keep weights and activations in NHWC, which is faster for convolutions on most GPUs. Measured on a CPU, the
            time of a step: 0.93 in float32 at 32x32, 1.01 at 8x8, 1.3 to 1.5 in bfloat16.
        label_dropout: another name of condition_dropout.
    """

    trains_in_float64: ClassVar[bool] = True

    def __init__(
        self,
        net: nn.Module | dict[str, Any] | None = None,
        *,
        start: str | Path | None = None,
        fresh: Sequence[str] = (),
        lora: LoRA | None = None,
        retime: bool = False,
        noise: NoiseLaw | None = None,
        weighting: nn.Module | None = None,
        optimizer: Optimizer = partial(torch.optim.Adam, lr=1e-3),  # noqa: B008 (immutable)
        learning_rate: LearningRate = Constant(),  # noqa: B008 (immutable)
        sigma_data: float | None = None,
        num_classes: int | None = None,
        time: TimeName | Time | None = None,
        prediction: Prediction | None = None,
        bounds: tuple[float, float] | None = None,
        condition_dropout: float = 0.0,
        compile: bool | Compile = False,
        channels_last: bool = False,
        label_dropout: float | None = None,
    ):
        if label_dropout is not None:
            if condition_dropout:
                raise ValueError("DiffusionModule: label_dropout is another name of condition_dropout; leave one out")
            condition_dropout = label_dropout
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"DiffusionModule: condition_dropout must lie in [0, 1), got {condition_dropout}")
        _refuse_without_start(start, net, fresh, lora)
        if retime and (start is None or time is None):
            raise ValueError(
                "DiffusionModule: retime trains the weights of start on another time; name both, start and time"
            )
        if start is None:
            assert isinstance(net, nn.Module)
            told_by = default_time(prediction) if time is None else time
            denoiser = Denoiser(
                net, 0.5 if sigma_data is None else sigma_data, told_by, prediction=prediction, bounds=bounds
            )
        else:
            own = None if num_classes is None else {"num_classes": num_classes}
            known = partial(_facts_beside_data, own=own)
            denoiser = pretrained.denoiser(
                known, start=start, net=net, sigma_data=sigma_data, time=time, prediction=prediction, bounds=bounds
            )
            if num_classes is None:
                num_classes = int(getattr(denoiser.net, "num_classes", 0))
        if condition_dropout and not num_classes and not takes_condition(denoiser.net):
            raise ValueError("DiffusionModule: condition_dropout needs labelled data; this data has no classes")
        if lora is not None:
            lora.adapt(denoiser.net, pretrained.fresh_names(denoiser.net, fresh))
        super().__init__(
            denoiser,
            noise=noise,
            weighting=weighting,
            optimizer=optimizer,
            learning_rate=learning_rate,
            num_classes=num_classes or 0,
            compile=compile,
            channels_last=channels_last,
        )
        self.condition_dropout, self.lora = condition_dropout, lora
        self.start = pretrained.StartingWeights(start, fresh=tuple(fresh), retime=retime)

    @staticmethod
    def recipe_facts(node: Mapping[str, Any]) -> dict[str, Any]:
        """What the record of `start` fills into a recipe's `model` node: net, but for what data say of it, and parametrisation."""
        if node.get("start") is None:
            return {}
        return pretrained.facts(node, "start", of_data=("shape", "num_classes"))

    def begin(self, *, resumes: bool, described: bool = False) -> None:
        self.start.take(self.denoiser, resumes=resumes, described=described)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.start.setup(self.denoiser, self.trainer)

    def configure_model(self) -> None:
        super().configure_model()
        if self.lora is not None and is_sharded(self.denoiser.net):
            raise UserError("trainer.strategy: adapters do not go with shards; use ddp, or leave model.lora out")

    def on_train_start(self) -> None:
        self.start.refuse_missing(self.images_seen)
        super().on_train_start()

    def trained_with(self, augment: Augment | None) -> TrainedWith:
        return replace(super().trained_with(augment), label_dropout=self.condition_dropout)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> StepOutputs:
        self._rekey_dropout(batch_idx)
        x0 = self._laid_out(batch["image"])
        sigma = self.noise.icdf(batch["u"]).to(x0.dtype)
        given, augment = of_batch(batch), batch.get("augment")
        loss = denoising_loss(self.denoiser, x0, sigma, batch["noise"], given, augment=augment)
        return self._outputs(batch, sigma, loss)

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, before the batch moves: drop a share of the conditions by position; `num_classes` stands for "no label"."""
        batch = super().prepare_batch(batch)
        if not self.condition_dropout:
            return batch
        given = of_batch(batch)
        u = rng.uniform(self.seed, "label_dropout", batch["position"].numpy())
        drop = torch.from_numpy(u < self.condition_dropout)
        if isinstance(given, Condition):
            return without(batch) | into_batch(given.where(~drop, self._null_on_host()))
        assert given is not None
        return batch | {"label": torch.where(drop, self.num_classes, given)}


def _facts_beside_data(node: Mapping[str, Any], own: dict[str, int] | None) -> dict[str, Any]:
    """As `recipe_facts`, where there is no recipe that data fill in."""
    known = pretrained.record(Path(node["start"]), "start").net
    return pretrained.facts(node, "start", {name: value for name, value in (own or {}).items() if name in known})


def _refuse_without_start(start: str | Path | None, net: object, fresh: Sequence[str], lora: LoRA | None) -> None:
    """An error for what is left out, or says something of a start that there is not."""
    if start is not None:
        return
    if net is None:
        raise UserError(
            "model.net: expected a network, a Module, got null; give one, or a model to start from: model.start"
        )
    if not isinstance(net, nn.Module):
        raise UserError(
            "model.net: expected Module, got a mapping without _target_; only with model.start is it like another"
        )
    if fresh:
        raise ValueError("DiffusionModule: fresh is of weights of start; without one, all are new")
    if lora is not None:
        raise ValueError("DiffusionModule: lora trains adapters of weights that are there; name a model by start")
