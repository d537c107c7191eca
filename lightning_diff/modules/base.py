"""What every training module shares: one denoiser, trained by one optimiser on the position-addressed stream."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from .. import rng, sharding
from ..denoiser import Denoiser
from ..errors import UserError
from ..learning_rate import LearningRate
from ..noise import LogNormal, NoiseLaw, sigma_to_log_snr
from ..processes import from_all
from ..weighting import Uniform

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class TrainingModule(LightningModule):
    """A denoiser, a law of noise levels, weights over them, one optimiser; counted in images.

    One optimiser step consumes one global batch. What learns from the losses (a weighting, a noise law) is updated once for each
    step from the whole batch, in order of position, whatever the number of processes and accumulation steps.

    A subclass gives `training_step`: `_rekey_dropout`, then a loss per sample, then `_outputs` of it.

    Args:
        denoiser: what is trained, averaged and exported.
        noise: law of the training noise levels. The importance of one that adapts multiplies the loss, so that the objective
            stays that of its base law.
        weighting: weights over log-SNR. Its parameters train with the network's.
        optimizer: takes the parameters, returns the optimiser.
        learning_rate: factor on the optimiser's rate as a function of images seen.
        num_classes: number of classes, 0 for none.
        compile: compile the network in place; checkpoints do not change.
        channels_last: keep weights and activations in NHWC.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        noise: NoiseLaw | None,
        weighting: nn.Module | None,
        optimizer: Optimizer,
        learning_rate: LearningRate,
        num_classes: int,
        compile: bool,
        channels_last: bool,
    ):
        super().__init__()
        if (classes := getattr(denoiser.net, "num_classes", num_classes)) not in (0, num_classes):
            raise ValueError(f"{type(self).__name__}: the network has {classes} classes, the data have {num_classes}")
        self.denoiser = denoiser
        self.noise = noise if noise is not None else LogNormal()
        self.weighting = weighting if weighting is not None else Uniform()
        self.make_optimizer, self.learning_rate = optimizer, learning_rate
        self.num_classes, self.compile_net = num_classes, compile
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.images_seen = 0  # by finished optimiser steps, over all processes
        self.grad_norm: Tensor | None = None  # before clipping, where clipping is on
        self._losses: list[tuple[Tensor, ...]] = []  # (position, log_snr, loss, weight) of the step under way

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.seed, self.batch_size = data.seed, data.batch_size
        shape = tuple(getattr(self.denoiser.net, "shape", data.data.shape))
        if shape != data.data.shape:
            raise UserError(f"model.net.shape: the network is for {shape}, the data are {data.data.shape}")

    def configure_model(self) -> None:
        sharding.configure(self)

    def on_fit_start(self) -> None:
        if self.memory_format is torch.channels_last:
            self.denoiser.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile_net and not sharding.is_sharded(self.denoiser.net):  # whose blocks are, one by one
            self._compile()
        prepare = getattr(self.weighting, "prepare", None)
        if prepare is not None:
            law = getattr(self.noise, "base", self.noise)  # to which importance carries an adaptive law's draws back
            u = (torch.arange(4096, dtype=torch.float64, device=self.device) + 0.5) / 4096
            prepare(sigma_to_log_snr(law.icdf(u), self.denoiser.sigma_data))

    def _compile(self) -> None:
        self.denoiser.net.compile()

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, before the batch moves: an unconditional model is shown no labels."""
        if not self.num_classes:
            batch.pop("label", None)
        return batch

    def _laid_out(self, image: Tensor) -> Tensor:
        """In the memory format of the weights."""
        return image.contiguous(memory_format=self.memory_format) if image.ndim == 4 else image

    def _outputs(self, batch: dict[str, Tensor], sigma: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """What `training_step` returns, from each sample's unweighted loss; "loss" is importance (weight loss + penalty)."""
        log_snr = sigma_to_log_snr(sigma, self.denoiser.sigma_data)
        measured = loss.detach()
        weight = self.weighting(log_snr, measured)
        objective = weight * loss
        if (penalty := getattr(self.weighting, "penalty", None)) is not None:
            objective = objective + penalty(log_snr, measured)
        importance = self.noise.importance(sigma) if hasattr(self.noise, "importance") else torch.ones_like(measured)
        objective = importance * objective
        if hasattr(self.weighting, "update") or hasattr(self.noise, "update"):
            self._losses.append((batch["position"], log_snr, measured, weight.detach()))
        return {
            "loss": objective.mean(),
            "per_sample_loss": measured,
            "weight": importance * weight.detach(),  # all that multiplies the loss
            "importance": importance,  # averages over levels count samples by it
            "log_snr": log_snr,
            "position": batch["position"],
        }

    def _rekey_dropout(self, batch_idx: int) -> None:
        """Dropout depends on (seed, step, process, micro-batch) alone, so that a resumed run draws the same masks."""
        accumulation, world = self.trainer.accumulate_grad_batches, self.trainer.world_size
        micro = (batch_idx % accumulation) * world + self.trainer.global_rank
        key = rng.key(self.seed, "dropout", self.images_seen + micro)
        # Not torch.manual_seed: without a GPU in use it queues a call and a stack trace for each device at every step.
        torch.default_generator.manual_seed(key)
        if self.device.type != "cpu":
            getattr(torch, self.device.type).manual_seed(key)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        try:
            optimizer = self.make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"model.optimizer: {str(error).splitlines()[0]}") from error
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        takes = {"initial_lr", *inspect.signature(type(optimizer)).parameters}
        self._options = [{name: group[name] for name in takes & group.keys()} for group in optimizer.param_groups]
        return optimizer

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        factor = self.learning_rate(self.images_seen + self.batch_size)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.images_seen += self.batch_size  # here, because callbacks' on_train_batch_end comes before the module's
        self._learn()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does it, except that the norm is kept for whoever reports it."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
                scaler.unscale_(optimizer)  # fp16: left to fused optimisers' own step, which is too late for the norm
            # The optimiser's own list: walking the modules for it costs a quarter of a millisecond.
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self.grad_norm = sharding.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _learn(self) -> None:
        """Show the step's unweighted losses, from all processes and in order of position, to whatever learns from them."""
        if not self._losses:
            return
        position, *parts = (torch.cat(parts) for parts in zip(*self._losses, strict=True))
        self._losses.clear()
        position, *parts = (from_all(part) for part in (position, *parts))
        order = position.argsort()
        log_snr, loss, weight = (part[order] for part in parts)
        if (update := getattr(self.weighting, "update", None)) is not None:
            update(log_snr, loss)
        if hasattr(self.noise, "update"):
            self.noise.update(log_snr, loss, weight)

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            if any(missing := optimizer.defaults.keys() - group.keys() for group in optimizer.param_groups):
                raise UserError(
                    f"model.optimizer: the checkpoint's state is of another optimiser, without {', '.join(sorted(missing))}; "
                    "go on with that one, or give this training another name"
                )
            # A checkpoint's options came with its state; the recipe's stand. What else an optimiser keeps in its groups is state.
            for group, options in zip(optimizer.param_groups, self._options, strict=True):
                group.update(options)
        starts = from_all(torch.tensor([[self.trainer.global_step, self.images_seen]], device=self.device))
        if len(starts.unique(dim=0)) > 1:
            raise UserError(
                "the processes found different checkpoints to start from; does each see the whole run folder?"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = self.images_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
        _refuse_other_network(self.state_dict(), checkpoint["state_dict"])
        # Lightning counts micro-batches; with another number of them per step its count must still mark the start of a step.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        shift = checkpoint["global_step"] * self.trainer.accumulate_grad_batches - progress["ready"]
        progress.update({name: progress[name] + shift for name in ("ready", "started", "processed", "completed")})


def _refuse_other_network(own: dict[str, Any], stored: dict[str, Any]) -> None:
    """One sentence instead of a page of tensor names."""
    for name in [*own, *stored]:
        here, there = (getattr(state.get(name), "shape", None) for state in (own, stored))
        if (name in own) != (name in stored) or here != there:
            has = [f"{name} {tuple(shape)}" if shape is not None else f"no {name}" for shape in (there, here)]
            raise UserError(f"the checkpoint is of another network: it has {has[0]}, this one {has[1]}")
