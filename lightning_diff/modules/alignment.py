"""Reward fine-tuning: a trained model is trained on towards images with a higher reward (DiffusionNFT, Sol-RL)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from ..artifacts import TrainedWith
from ..condition import Prompts, takes_condition
from ..data import Augment, Data
from ..denoiser import Denoiser, Prediction, Time, TimeName
from ..foundation.errors import UserError
from ..learning_rate import Constant, LearningRate
from ..nets.frozen import Frozen
from ..nets.lora import LoRA
from ..noise import sigma_to_log_snr
from ..precision import quantized_copy
from ..rewards import Reward, as_one, for_prompts, networks
from ..rollouts import Advantages, Plan, RewardLoss, Rollout
from ..rollouts.examples import TrainingSet, examples, training_set
from ..rollouts.old_policy import OldPolicy, Ramp
from ..rollouts.policies import Policies
from ..rollouts.scoring import refuse_unfit
from . import conditioning, pretrained
from .alignment_state import Stored, plan_of, refuse_other_model, rollout_of, stored
from .compiling import Compile
from .denoiser_module import Optimizer, TrainingModule
from .reward_epoch import RewardEpoch
from .sharding import is_sharded
from .training_data import training_data


class AlignmentModule(TrainingModule):
    """Reward fine-tuning of a denoiser, in epochs: collect a rollout, train on it, let the old policy follow.

    An epoch draws `plan.prompts` x `plan.keep` images with the old policy (see `rollouts`) and trains on each at `loss.levels` of
    the noise levels that it was drawn through, in any order, with fresh noise: prompts x keep x levels training examples, of which
    `data.batch_size` go into each optimiser step. Then the old policy follows. All of it is a function of (seed, epoch, position):
    which prompts, seeds, levels and noise does not depend on the number of processes, nor on interruptions; checkpoints hold the
    epoch's images where one is under way. Every process holds all images of the epoch, on the host.

    Of the data, the number of classes counts, or the prompts of a model that is conditioned on text; images serve comparisons only.
    Dropout is off throughout: theta at theta_old has to give what theta_old gives.

    Args:
        model: run folder or model file to start from, which is also the reference; its averaged weights are what is there. A
            checkpoint names it by its file's hash; resuming with another one is refused.
        net: the network; None for the model's.
        reward: callable (images (B, C, H, W) in [-1, 1], label (B,)) -> (B,), with a parameter `prompts` also told the texts (see
            `rewards.for_prompts`); or several, which count equally (see `rewards.WeightedSum`, each standardised within the group).
        loss: what trains on the images that were kept, and at how many noise levels.
        plan: of the rollouts.
        advantages: from which rewards advantages are counted, and in what unit.
        copy: makes the copy that explores, of (network, kind), in a precision other than full: `precision.quantized_copy`, or a
            partial of it with other `rest`, `kernel`, `smallest` or `keep`.
        lora: train adapters instead of the weights.
        old_policy: optimiser steps taken -> share of itself that the old policy keeps at the end of an epoch.
        classes: the classes to be prompts, or numbers of the data's prompts; None for all.
        optimizer: default AdamW at 3e-4 with weight decay 1e-4, Sol-RL's for adapters.
        learning_rate: factor on the optimiser's rate as a function of images seen; default constant.
        sigma_data: the model's.
        num_classes: number of classes, 0 for none (a fact of the data).
        time, prediction, bounds: the model's.
        compile: compile the blocks of the network, and of those that sample, in place, or what a `Compile` says.
        channels_last: keep weights and activations in NHWC.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("model",)  # the hash of its weights is compared
    trains_on_images: ClassVar[bool] = False

    def __init__(
        self,
        model: str | Path,
        net: nn.Module | dict[str, Any] | None = None,
        *,
        reward: Reward | Sequence[Reward],
        loss: RewardLoss = RewardLoss(),  # noqa: B008 (immutable)
        plan: Plan = Plan(),  # noqa: B008 (immutable)
        advantages: Advantages = Advantages(),  # noqa: B008 (immutable)
        copy: Callable[..., nn.Module] = quantized_copy,
        lora: LoRA | None = None,
        old_policy: OldPolicy = Ramp(),  # noqa: B008 (immutable)
        classes: Sequence[int] | None = None,
        optimizer: Optimizer = partial(torch.optim.AdamW, lr=3e-4, weight_decay=1e-4),  # noqa: B008 (immutable)
        learning_rate: LearningRate = Constant(),  # noqa: B008 (immutable)
        sigma_data: float | None = None,
        num_classes: int = 0,
        time: TimeName | Time | None = None,
        prediction: Prediction | None = None,
        bounds: tuple[float, float] | None = None,
        compile: bool | Compile = False,
        channels_last: bool = False,
    ):
        denoiser = pretrained.denoiser(
            self.recipe_facts,
            model=model,
            net=net,
            sigma_data=sigma_data,
            time=time,
            prediction=prediction,
            bounds=bounds,
        )
        if lora is not None:
            lora.adapt(denoiser.net)
        super().__init__(
            denoiser,
            noise=None,
            weighting=None,
            optimizer=optimizer,
            learning_rate=learning_rate,
            num_classes=num_classes,
            compile=compile,
            channels_last=channels_last,
        )
        self.model_path, self.loss, self.advantages, self.old_policy = Path(model), loss, advantages, old_policy
        self.copy, self._reward = copy, Frozen(as_one(reward))
        self._reward_networks = [Frozen(network) for network in networks(self.reward)]
        self.recipe_classes = classes
        self.classes: Sequence[int] = range(num_classes) if classes is None else classes
        self._prompts: Frozen[Prompts] | None = None  # of a model that takes conditions
        self.recipe_plan = self.plan = plan  # the second may change between epochs, but not how many images it keeps
        self.trained_levels = loss.trained_levels(plan)
        self._refuse_unfit()
        self._start: Frozen[Denoiser] | None = None
        self._start_sha256: str | None = None
        self._stored: Stored | None = None
        self.training_set: TrainingSet | None = None  # of the epoch under way

    def _refuse_unfit(self) -> None:
        """What does not go together."""
        if "kind" in getattr(self.copy, "keywords", {}):
            raise ValueError("AlignmentModule: copy: its kind is plan.precision; leave it out")
        self.advantages.refuse_meaningless(self.reward, self.plan)
        if takes_condition(self.denoiser.net):  # whose prompts the data have
            return
        if any(not 0 <= label < self.num_classes for label in self.classes):
            raise ValueError(
                f"AlignmentModule: classes must lie in 0..{self.num_classes - 1}, got {list(self.classes)}"
            )
        has_classes = len(self.classes) > 0 and getattr(self.denoiser.net, "num_classes", self.num_classes) > 0
        refuse_unfit(self.reward, has_classes)

    def _take_prompts(self, data: Data) -> None:
        """Those of the data, for a model that takes conditions. UserError where there are none, or fewer than are named."""
        if not takes_condition(self.denoiser.net):
            return
        found = conditioning.prompts(self.denoiser.net, data)
        self.classes = range(len(found)) if self.recipe_classes is None else self.recipe_classes
        if wrong := [number for number in self.classes if not 0 <= number < len(found)]:
            raise UserError(f"model.classes: there are {len(found)} prompts, 0 to {len(found) - 1}, and no {wrong[0]}")
        refuse_unfit(self.reward, has_classes=True)
        self._prompts = Frozen(found)
        self._reward = Frozen(for_prompts(self.reward, found.texts, found.labels))

    @staticmethod
    def recipe_facts(node: Mapping[str, Any]) -> dict[str, Any]:
        """What the model's record fills into a recipe's `model` node: net, sigma_data, time, prediction, bounds."""
        return pretrained.facts(node, "model")

    def trained_with(self, augment: Augment | None) -> TrainedWith:
        """As the model that training starts from: the data's images are not trained on."""
        return pretrained.trained_with(self.model_path)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = training_data(self.trainer).data
        self.shape: tuple[int, ...] = tuple(data.shape)
        if self._start is not None:
            return
        self._take_prompts(data)
        if self.epoch_images % self.batch_size:
            raise UserError(
                f"data.batch_size: an epoch is {self.plan.prompts} prompts x {self.plan.keep} images x {self.trained_levels} "
                f"noise levels = {self.epoch_images} training examples, no multiple of {self.batch_size}"
            )
        start = pretrained.start_from(self.model_path, self.denoiser)
        self._start, self._start_sha256 = Frozen(start.denoiser), start.record.identity

    def configure_model(self) -> None:
        super().configure_model()
        if is_sharded(self.denoiser.net):
            raise UserError(
                "trainer.strategy: reward fine-tuning keeps whole networks; use ddp, and model.lora for large ones"
            )

    def train(self, mode: bool = True) -> "AlignmentModule":
        super().train(mode)
        self.denoiser.eval()
        return self

    def on_fit_start(self) -> None:
        assert self._start is not None
        for network in self._reward_networks:
            network.to(self.device)
        if self.memory_format is torch.channels_last:
            self.denoiser.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._start.to(self.device, self.memory_format)
        for net in (self.denoiser.net, self._start.value.net):
            self.keep_null_condition(net)
        prompts = None
        if self._prompts is not None:
            self._prompts.to(self.device)
            prompts = self._prompts.value
        # Beside the network that trains: what all processes have need not be sent by DDP at every step.
        self.policies = Policies(self.denoiser.told(prompts), self._start.value.told(prompts), self.copy)
        self.reward_epoch = RewardEpoch(
            policies=self.policies,
            reward=self.reward,
            classes=self.classes,
            shape=self.shape,
            seed=self.seed,
            eta=self.loss.eta if self.loss.is_chain else None,
            autoencoder=training_data(self.trainer).data.autoencoder,
            device=self.device,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            autocast=self.trainer.precision_plugin.forward_context,
        )
        if self._stored is not None:
            self._restore(self._stored)
            self._stored = None
        super().on_fit_start()

    def _compile(self, how: Compile) -> None:
        super()._compile(how)
        self.policies.compile(how.network)

    # --- an epoch ---

    @property
    def reward(self) -> Reward:
        return self._reward.value

    @property
    def prompts(self) -> Prompts | None:
        """Of a model that takes conditions: what the numbers in `classes` stand for."""
        return None if self._prompts is None else self._prompts.value

    @property
    def rollout(self) -> Rollout | None:
        """Of the epoch under way; None between epochs."""
        return None if self.training_set is None else self.training_set.rollout

    @property
    def epoch_images(self) -> int:
        """Training examples of an epoch."""
        return self.plan.images * self.trained_levels

    @property
    def rollout_epoch(self) -> int:
        """Number of the epoch that the next optimiser step belongs to."""
        return self.images_seen // self.epoch_images

    def change_plan(self, plan: Plan) -> None:
        """Another pool, preview_steps, precision or selection from the next epoch on."""
        if (plan.prompts, plan.keep, plan.steps) != (self.plan.prompts, self.plan.keep, self.plan.steps):
            raise ValueError("AlignmentModule: prompts, keep and steps of a plan do not change within a run")
        self.plan = plan

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, before the batch moves: examples of the epoch's rollout, which is collected for the first of them."""
        if self.training_set is None:
            self.training_set = self._training_set(self.reward_epoch.collect(self.plan, self.rollout_epoch))
        return examples(self.training_set, batch["position"], batch["noise"])

    def _training_set(self, rollout: Rollout) -> TrainingSet:
        return training_set(rollout, self.plan, self.loss, self.advantages, seed=self.seed, epoch=self.rollout_epoch)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        x, sigma, label = self._laid_out(batch["x"]), batch["sigma"], batch.get("label")
        given = label if self._prompts is None or label is None else self._prompts.value(label)
        with torch.no_grad():
            reference = self.policies.reference(x, sigma.to(x.dtype), given) if self.loss.kl else None
            old = None if self.loss.is_chain else self.policies.old(x, sigma.to(x.dtype), given)
        x_hat = self.denoiser(x, sigma.to(x.dtype), given)  # last: see `compiling`, of calls without gradients
        result = self.loss(batch | {"x": x}, x_hat, old, reference, self.advantages.clip)
        return {
            "loss": result.loss.mean(),
            "per_sample_loss": result.loss.detach(),
            "log_snr": sigma_to_log_snr(sigma, self.denoiser.sigma_data),
            "position": batch["position"],
            "kl": result.kl,
        }

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Tensor | None] | None = None,
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.images_seen % self.epoch_images == 0:
            self.policies.follow(self.old_policy(self.images_seen // self.batch_size))
            self.training_set = None

    # --- checkpoints ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["alignment"] = stored(
            self._start_sha256, self.policies, self.recipe_plan, self.plan, self.rollout, self.reward_epoch
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self._trainer is None:  # for its weights alone
            return
        kept: Stored = checkpoint["alignment"]
        refuse_other_model(kept, self._start_sha256, self.model_path)
        self._stored = kept

    def _restore(self, kept: Stored) -> None:
        self.policies.load({name: value.to(self.device) for name, value in kept["old"].items()})
        self.reward_epoch.total.evaluations.update(kept["evaluations"])
        self.reward_epoch.total.images.update(kept["images_drawn"])
        self.plan = plan_of(kept, self.recipe_plan)
        if (drawn := rollout_of(kept, self.plan)) is not None:
            self.training_set = self._training_set(drawn)
