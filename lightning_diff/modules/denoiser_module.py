"""What every training module shares: one denoiser, trained by one optimiser on the position-addressed stream."""

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..artifacts import Conditions, TrainedWith
from ..condition import Condition, takes_condition, without
from ..data import Augment, Data
from ..denoiser import Denoiser
from ..foundation import devices, rng
from ..foundation.errors import UserError
from ..foundation.processes import from_all
from ..learning_rate import LearningRate
from ..noise import LogNormal, NoiseLaw, TrainingLaw, as_training_law, sigma_to_log_snr
from ..weighting import Uniform, Weighting, as_weighting
from . import conditioning, sharding
from . import lightning_internals as internals
from .base import CountedModule, Optimizer, StepOutputs
from .compiling import Compile, as_compile
from .network_check import refuse_beyond, refuse_one_shape, refuse_unfit_network
from .training_data import TrainingData, training_data

__all__ = ["Optimizer", "StepOutputs", "TrainingModule"]


@runtime_checkable
class ChangesAfterStep(Protocol):
    """A network that does something to its weights after each optimiser step, before they are averaged: normalises them, say."""

    def after_step(self) -> None: ...


class TrainingModule(CountedModule):
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
        compile: compile the network's blocks in place, or what a `Compile` says; checkpoints do not change. Where torch cannot
            compile, that is said, and training goes on without.
        channels_last: keep weights and activations in NHWC.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("compile", "compile.*", "channels_last")
    trains_on_images: ClassVar[bool] = True  # those of the data

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        noise: NoiseLaw | None,
        weighting: nn.Module | None,
        optimizer: Optimizer,
        learning_rate: LearningRate,
        num_classes: int,
        compile: bool | Compile,
        channels_last: bool,
    ):
        super().__init__(optimizer=optimizer, learning_rate=learning_rate)
        if (classes := getattr(denoiser.net, "num_classes", num_classes)) not in (0, num_classes):
            raise ValueError(f"{type(self).__name__}: the network has {classes} classes, the data have {num_classes}")
        self.denoiser = denoiser
        self.noise = noise if noise is not None else LogNormal()
        self.weighting = weighting if weighting is not None else Uniform()
        self.num_classes, self.compiled = num_classes, as_compile(compile)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._losses: list[
            tuple[Tensor, ...]
        ] = []  # (position, log_snr, loss, weight, importance) of the step under way
        self._null: Condition | None = None  # of the network, in the host's memory
        self._begins_step = True  # the micro-batch under way
        self._is_within = False  # whether the first examples were seen to lie within the denoiser's bounds
        self._fits: set[tuple[int, ...]] = set()  # shapes of examples that the network was tried with
        self._prepared_for: object = ()  # the revision of the noise law that the weighting was prepared for

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        if isinstance(
            internals.datamodule(self.trainer), TrainingData
        ):  # of a loader's batches it is told with the first
            self._refuse_unfit_data()
        root = self.trainer.strategy.root_device
        if self.compiled is not None and not self.compiled.serves(root, "model.compile"):
            self.compiled = None

    def refuse_unfit_network(self, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        """UserError for a network that returns no tensor like the examples, or lacks what the training needs of it.

        See `network_check`.

        Args:
            shape: of an example.
            device: that trains.
        """
        own = tuple(getattr(self.denoiser.net, "shape", shape))
        if own != tuple(shape):
            raise UserError(f"model.net.shape: the network is for {own}, the data are {tuple(shape)}")
        if tuple(shape) not in self._fits:
            refuse_unfit_network(self.denoiser, shape, self.num_classes)
            self._refuse_no_derivative(shape, device)
        self._fits.add(tuple(shape))

    def _refuse_no_derivative(self, shape: Sequence[int], device: torch.device | str) -> None:
        """UserError for a network without a derivative that the training takes, beside that by its weights."""

    @property
    def looks_at_images(self) -> bool:
        """Whether the data's images are trained on, beside what they are conditioned on."""
        return self.trains_on_images

    def refuse_unfit_data(self, data: Data) -> None:
        """UserError for data that have what the network is not told of, shapes that it does not take, or a bucket never shown."""
        if self.trains_on_images:
            conditioning.refuse_unfit(self.denoiser.net, data, self.num_classes)
            if data.in_buckets is not None:
                data.in_buckets.refuse_small(data.name, data.batch_size)
                self._refuse_one_shape(data.shapes)
        else:
            conditioning.refuse_buckets(data, type(self).__name__)

    def _refuse_one_shape(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """UserError for a network that does not take the shapes of all buckets."""
        refuse_one_shape(self.denoiser, [shape for shape in shapes if shape not in self._fits], self.num_classes)
        self._fits.update(shapes)

    def _refuse_unfit_data(self) -> None:
        """UserError for data that the network is not for; what the data have and the training does not use is said."""
        data = training_data(self.trainer).data
        self.refuse_unfit_network(data.shape, self.trainer.strategy.root_device)
        self.refuse_unfit_data(data)
        said = list(conditioning.remarks(self.denoiser.net, data, self.num_classes))
        if not self.looks_at_images:
            said += conditioning.unused_remarks(data)
        if self.trainer.is_global_zero and said:
            print("\n".join(said), flush=True)

    def trained_with(self, augment: Augment | None) -> TrainedWith:
        """For the model's record; `augment` is the data's."""
        return TrainedWith(augment=augment is not None)

    def conditions_on(self, data: Data) -> Conditions:
        """What the model's samples may be conditioned on, where it is trained on these data."""
        net = self.denoiser.net
        return Conditions(
            kind=self.denoiser.kind,
            num_classes=getattr(net, "num_classes", self.num_classes),
            takes_condition=takes_condition(net),
            takes_scale=bool(getattr(net, "guided", False)),
            trained_with=self.trained_with(data.augment),
        )

    @property
    def _law_and_weighting(self) -> tuple[TrainingLaw, Weighting]:
        """With all the methods that the step calls, which one of the user's own may lack."""
        return as_training_law(self.noise), as_weighting(self.weighting)

    def configure_model(self) -> None:
        sharding.configure(self)

    def keep_null_condition(self, net: nn.Module) -> None:
        """Give a network, whose weights are in place, the data's null condition. UserError where it has another one."""
        if isinstance(source := internals.datamodule(self.trainer), TrainingData):
            conditioning.keep_null_condition(net, source.data)

    def on_fit_start(self) -> None:
        if takes_condition(self.denoiser.net):
            self.keep_null_condition(self.denoiser.net)
        if self.memory_format is torch.channels_last:
            self.denoiser.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compiled is not None and isinstance(source := internals.datamodule(self.trainer), TrainingData):
            self.compiled.expect(self.denoiser.net, len(source.data.shapes))
        if self.compiled is not None and not sharding.is_sharded(self.denoiser.net):  # whose blocks are, one by one
            self._compile(self.compiled)
        self._prepared_for = ()
        self._prepare_weighting()

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.compiled is not None and self.compiled.optimizer:
            self.compiled.step(self.trainer.optimizers[0])
        self._prepare_weighting()  # a sharded model's checkpoint is loaded after on_fit_start

    def _prepare_weighting(self) -> None:
        """Show the weighting the law that the loss is averaged over, unless it is as it was."""
        law, weighting = self._law_and_weighting
        if (revision := law.revision) == self._prepared_for:
            return
        u = (torch.arange(4096, dtype=torch.float64, device=self.device) + 0.5) / 4096
        weighting.prepare(sigma_to_log_snr(law.objective_law().icdf(u), self.denoiser.sigma_data))
        self._prepared_for = revision

    def _compile(self, how: Compile) -> None:
        how.network(self.denoiser.net)

    @property
    def replays_graphs(self) -> bool:
        return self.compiled is not None and self.compiled.replays_graphs

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        self._begins_step = batch_idx % self.trainer.accumulate_grad_batches == 0
        if self.replays_graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def on_after_backward(self) -> None:
        if self.replays_graphs and self._begins_step and self.trainer.accumulate_grad_batches > 1:
            for parameter in self.parameters():  # the next micro-batch overwrites what the graph returned
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, before the batch moves: an unconditional model is shown no labels and no conditions."""
        if self.denoiser.bounds is not None and not self._is_within:
            refuse_beyond(batch["image"], self.denoiser.bounds)
            self._is_within = True
        if takes_condition(self.denoiser.net):
            return batch
        return batch if self.num_classes and "label" in batch else without(batch)

    def _null_on_host(self) -> Condition:
        """The network's null condition, in the host's memory. UserError where none is known."""
        if self._null is None:
            self._null = conditioning.null_condition(self.denoiser.net, "model.condition_dropout").to("cpu")
        return self._null

    def _laid_out(self, image: Tensor) -> Tensor:
        """In the memory format of the weights."""
        return image.contiguous(memory_format=self.memory_format) if image.ndim == 4 else image

    def _outputs(self, batch: dict[str, Tensor], sigma: Tensor, loss: Tensor) -> StepOutputs:
        """What `training_step` returns, from each sample's unweighted loss: the mean of importance (weight loss + penalty)."""
        law, weighting = self._law_and_weighting
        log_snr, measured = sigma_to_log_snr(sigma, self.denoiser.sigma_data), loss.detach()
        importance, weight = law.importance(sigma), weighting(log_snr, measured)
        objective = importance * (weight * loss + weighting.penalty(log_snr, measured))
        if law.learns or weighting.learns:
            self._losses.append((batch["position"], log_snr, measured, weight.detach(), importance))
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
        position = self.images_seen + micro
        # Not torch.manual_seed: without a GPU in use it queues a call and a stack trace for each device at every step.
        rng.seed_generator(torch.default_generator, self.seed, "dropout", position)
        devices.seed(self.device, rng.key(self.seed, "dropout", position))

    def _learn(self) -> None:
        """Show the step's unweighted losses, from all processes and in order of position, to whatever learns from them.

        First of all the network does what it has to do with its weights.
        """
        if isinstance(net := self.denoiser.net, ChangesAfterStep):
            net.after_step()
        if not self._losses:
            return
        position, *parts = (from_all(torch.cat(parts)) for parts in zip(*self._losses, strict=True))
        self._losses.clear()
        order = position.argsort()
        log_snr, loss, weight, importance = (part[order] for part in parts)
        law, weighting = self._law_and_weighting
        weighting.update_from(log_snr, loss, importance)
        law.update(log_snr, loss, weight)
        self._prepare_weighting()
