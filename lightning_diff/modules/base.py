"""What every module that a run trains shares: one optimiser, a count of images, and how it is resumed from a checkpoint."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NotRequired, TypedDict

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, TransformerEnginePrecision
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..foundation.errors import UserError
from ..foundation.processes import from_all
from ..learning_rate import LearningRate, over, parts
from . import lightning_internals as internals
from . import sharding
from .lightning_internals import State
from .loader_data import LoaderData, adopt
from .optimizer_state import Optimizer, fitted, misfit, options, refusal
from .saved import M, load, refuse_other_network
from .training_data import TrainingData


class StepOutputs(TypedDict):
    """What `training_step` returns, for one micro-batch of B examples; callbacks read it in `on_train_batch_end`."""

    loss: Tensor  # (), what is minimised
    per_sample_loss: Tensor  # (B,), before any weight, without a graph
    log_snr: Tensor  # (B,)
    position: Tensor  # (B,) int64, in the stream of training examples
    weight: NotRequired[Tensor]  # (B,), all that multiplied the loss
    importance: NotRequired[Tensor]  # (B,), the part of it that makes up for which noise levels were drawn
    details: NotRequired[dict[str, Tensor]]  # (B,) each, of what else was measured
    kl: NotRequired[Tensor]  # (B,), distance to the reference, in reward fine-tuning
    # Beside a critic, (B,) each: `log_snr`, and in a step of the student's `residual`. In one of the critic's `loss`: then all that
    # stands above is the critic's.
    critic: NotRequired[dict[str, Tensor]]


def is_of_critic(outputs: StepOutputs) -> bool:
    """Whether the step moves a critic instead of the network."""
    return "loss" in outputs.get("critic", {})


class CountedModule(LightningModule):
    """One optimiser step consumes one global batch; progress is counted in images.

    Args:
        optimizer: takes the parameters, returns the optimiser.
        learning_rate: factor on the optimiser's rate as a function of images seen.
    """

    product = "model.safetensors"  # what a finished run leaves in its folder
    trains_in_float64: ClassVar[bool] = False

    def __init__(self, *, optimizer: Optimizer, learning_rate: LearningRate):
        super().__init__()
        self.make_optimizer, self.learning_rate = optimizer, learning_rate
        self._learning_rate = learning_rate  # as given: its lengths may be parts of each run anew
        self.images_seen = 0  # by finished optimiser steps, over all processes
        self.grad_norm: Tensor | None = None  # before clipping, where clipping is on

    def configure_callbacks(self) -> list[Callback]:
        """None of its own; Lightning's first hook, where whatever `fit` was given becomes a source of examples by position."""
        adopt(self.trainer, self)
        return []

    def setup(self, stage: str) -> None:
        if stage != "fit":  # validation and tests are of a subclass
            return
        if self.trainer.strategy.root_device.type == "mps":
            raise UserError("trainer.accelerator: mps has no float64, which noise levels are kept in; use cpu")
        if isinstance(self.trainer.precision_plugin, HalfPrecision | TransformerEnginePrecision):
            raise UserError(
                f"precision {self.trainer.precision}: weights and noise levels would have 16 bits, in which neighbouring levels "
                "become one; use bf16-mixed"
            )
        if isinstance(self.trainer.precision_plugin, DoublePrecision):
            if not self.trains_in_float64:
                raise UserError(
                    f"trainer.precision: {type(self).__name__} uses networks beside its own, which stay in float32; "
                    f"{self.trainer.precision} is for DiffusionModule, take 32-true"
                )
            self.double()  # Lightning does it after it has loaded a checkpoint, into weights that would round it
        data = internals.datamodule(self.trainer)
        assert isinstance(data, TrainingData | LoaderData)
        self.seed, self.batch_size = data.seed, data.batch_size
        if relative := parts(self._learning_rate):
            if self.trainer.max_steps < 1:
                raise UserError(
                    f"learning_rate: {', '.join(relative)} is a part of the run; set the Trainer's max_steps"
                )
            self.learning_rate = over(self._learning_rate, self.trainer.max_steps * self.batch_size)

    def begin(self, *, resumes: bool, described: bool = False) -> None:
        """Before the run folder is touched: take what a new run starts from, or let be what a resumed one does not need.

        UserError where it cannot be taken. A Trainer of one's own need not call it.

        Args:
            described: nothing will be trained, and the network has no values: what it would start from is compared by its record.
        """

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, before the batch moves."""
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self._made(self._trained())
        self._options = options(optimizer)
        for group, chosen in zip(optimizer.param_groups, self._options, strict=True):
            group.update(chosen)
        return optimizer

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Tensor | None] | None = None,
    ) -> None:
        """Once for each global batch: the weights, the count of images, and then what learns from the losses."""
        factor = self.learning_rate(self.images_seen + self.batch_size)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.images_seen += self.batch_size  # here, because callbacks' on_train_batch_end comes before the module's
        self._learn()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does it, except that the norm is kept for whoever reports it."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            internals.unscale_gradients(self.trainer, optimizer)  # for a norm without the scale
            # The optimiser's own list: walking the modules for it costs a quarter of a millisecond.
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self.grad_norm = sharding.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _learn(self) -> None:
        """After each optimiser step: what learns from the whole global batch, besides the weights."""

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            # A checkpoint's options came with its state; the recipe's stand. What else an optimiser keeps in its groups is state.
            for group, chosen in zip(optimizer.param_groups, self._options, strict=True):
                group.update(chosen)
        starts = from_all(torch.tensor([[self.trainer.global_step, self.images_seen]], device=self.device))
        if len(starts.unique(dim=0)) > 1:
            raise UserError(
                "the processes found different checkpoints to start from; does each see the whole run folder?"
            )

    def on_save_checkpoint(self, checkpoint: State) -> None:
        checkpoint["images_seen"] = self.images_seen

    @classmethod
    def load_from_checkpoint(
        cls: type[M],
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> M:
        """The module with the weights of a checkpoint, of its last step: averages are what `lightning_diff.load` gives.

        The checkpoint of a run holds its recipe, from which the module is built; that of a Trainer of one's own does not, and
        needs the arguments that the module was built with.

        Args:
            checkpoint_path: of the file, or a run folder, whose newest is taken.
            map_location: device of the weights.
            hparams_file: not used.
            strict: whether the weights must be those of the network; default yes.
            weights_only: always true: nothing in the file is run.
            **kwargs: arguments of the module; those of the recipe hold for what is left out.

        Raises:
            UserError: the module cannot be built from what is there.
        """
        return load(cls, checkpoint_path, kwargs, map_location, strict is not False)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _made(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        try:
            return self.make_optimizer(iter(parameters))
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"model.optimizer: {str(error).splitlines()[0]}") from error

    def refuse_optimizer(self, device: torch.device) -> None:
        """UserError for an optimiser that cannot be made, or takes no step on this device."""
        self._made(self._trained())
        if reason := refusal(self.make_optimizer, self._trained(), device):
            raise UserError(f"model.optimizer: {reason}")

    def optimizer_misfit(self, checkpoint: Mapping[str, Any]) -> str | None:
        """Why this optimiser cannot continue from the state of a checkpoint's; None if it can.

        Raises:
            UserError: the checkpoint is of another network.
        """
        refuse_other_network(self.state_dict(), checkpoint["state_dict"])
        (saved,) = checkpoint["optimizer_states"]
        return misfit(saved, self.make_optimizer, self._trained())

    def on_load_checkpoint(self, checkpoint: State) -> None:
        if "images_seen" not in checkpoint:
            raise UserError("the checkpoint is of no training of lightning_diff's modules: it counts no images")
        self.images_seen = checkpoint["images_seen"]
        if self._trainer is None:  # for its weights alone
            return
        reason = self.optimizer_misfit(checkpoint)
        if reason is not None:
            rank_zero_warn(f"model.optimizer: {reason}; its state starts anew")
        (saved,) = checkpoint["optimizer_states"]
        own = [fitted(saved, self.make_optimizer, self._trained())] if reason is None else []
        checkpoint["optimizer_states"] = own
        if isinstance(internals.datamodule(self.trainer), TrainingData):  # whose one epoch has no end
            internals.start_at_whole_step(checkpoint, self.trainer.accumulate_grad_batches)
