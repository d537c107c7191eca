"""Reward post-training: a trained model and a reward become a model with more reward (DiffusionNFT, Sol-RL)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..artifacts import load_denoiser, load_weights
from ..denoiser import Denoiser
from ..foundation.binding import bind, construct
from ..foundation.errors import UserError
from ..learning_rate import Constant, LearningRate
from ..nets.lora import LoRA, adapted
from ..noise import sigma_to_log_snr
from ..objectives import by_name
from ..objectives.nft import optimality
from ..precision import quantized_copy
from ..rewards import Reward, as_one, networks
from ..rollouts import Plan, Rollout
from ..rollouts.advantages import Baseline, Spread, refuse_meaningless
from ..rollouts.old_policy import OldPolicy, Ramp
from ..rollouts.policies import Policies
from ..rollouts.scoring import refuse_unfit
from . import pretrained
from .denoiser_module import Optimizer, TrainingModule
from .reward_epoch import Roller
from .sharding import is_sharded


class AlignmentModule(TrainingModule):
    """Reward post-training of a denoiser, in epochs: draw, score, train.

    An epoch draws `plan.prompts` x `plan.keep` images with the old policy (see `rollouts`) and trains on each at `levels` of the
    noise levels that it was drawn through, in any order, with fresh noise: prompts x keep x levels training examples, of which
    `data.batch_size` go into each optimiser step. Then the old policy follows. All of it is a function of (seed, epoch, position):
    which prompts, seeds, levels and noise does not depend on the number of processes, nor on interruptions; checkpoints hold the
    epoch's images where one is under way. Every process holds all images of the epoch, on the host.

    Of the data, the number of classes counts; images serve comparisons only. Dropout is off throughout: theta at theta_old has to
    answer as theta_old.

    Args:
        model: run folder or model file to start from, which is also the reference; its averaged weights are what is there. A
            checkpoint names it by its file's hash; going on with another one is refused.
        net: the network; None for the model's.
        reward: callable (images (B, C, H, W) in [-1, 1], label (B,)) -> (B,), or several, which count equally (see
            `rewards.WeightedSum`, each standardised within the group).
        objective: "nft" (DiffusionNFT), "advantage_weighted" (AWM) or "policy_gradient" (DDPO and Flow-GRPO; what is kept is
            drawn with the stochastic sampler, whose noise previews do not have: the larger `eta`, the less they know).
        options: further arguments of the objective: beta, kl (see `objectives`).
        plan: of the rollouts.
        copy: makes the copy that explores, of (network, kind), in a precision other than full: `precision.quantized_copy`, or a
            partial of it with other `rest`, `kernel`, `smallest` or `keep`.
        levels: noise levels trained for each image; None: six tenths of what it was drawn through, Sol-RL's share.
        lora: train adapters instead of the weights.
        old_policy: optimiser steps taken -> share of itself that the old policy keeps at the end of an epoch.
        spread: advantages are divided by the standard deviation of all rewards of the epoch, or of those of the group, or by this
            number > 0: with the others, what hardly differs any more is told apart as sharply as what did at the start, and a
            reward that was reached is exploited.
        baseline: from which rewards are counted: the mean of the group's kept images, or of its whole pool (see `advantages`).
        advantage_clip: > 0.
        eta: noise of the stochastic sampler, in (0, 1]; for the policy gradient alone.
        classes: the classes to be prompts; None for all.
        optimizer: default AdamW at 3e-4 with weight decay 1e-4, Sol-RL's for adapters.
        learning_rate: factor on the optimiser's rate as a function of images seen; default constant.
        sigma_data: the model's.
        num_classes: number of classes, 0 for none (a fact of the data).
        time: the model's.
        compile: compile the network, and those that sample, in place.
        channels_last: keep weights and activations in NHWC.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("model",)  # the hash of its weights is compared

    def __init__(
        self,
        model: str | Path,
        net: nn.Module | dict[str, Any] | None = None,
        *,
        reward: Reward | Sequence[Reward],
        objective: Literal["nft", "advantage_weighted", "policy_gradient"] = "nft",
        options: Mapping[str, Any] | None = None,
        plan: Plan = Plan(),  # noqa: B008 (immutable)
        copy: Callable[..., nn.Module] = quantized_copy,
        levels: int | None = None,
        lora: LoRA | None = None,
        old_policy: OldPolicy = Ramp(),  # noqa: B008 (immutable)
        spread: Spread = "global",
        baseline: Baseline = "kept",
        advantage_clip: float = 5.0,
        eta: float = 1.0,
        classes: Sequence[int] | None = None,
        optimizer: Optimizer = partial(torch.optim.AdamW, lr=3e-4, weight_decay=1e-4),  # noqa: B008 (immutable)
        learning_rate: LearningRate = Constant(),  # noqa: B008 (immutable)
        sigma_data: float | None = None,
        num_classes: int = 0,
        time: Literal["edm", "trigflow"] | None = None,
        compile: bool = False,
        channels_last: bool = False,
    ):
        if not isinstance(net, nn.Module) or sigma_data is None or time is None:
            given = {"model": model, "net": net, "sigma_data": sigma_data, "time": time}
            facts = self.recipe_facts({name: value for name, value in given.items() if value is not None})
            net = net if isinstance(net, nn.Module) else construct(bind(facts["net"], nn.Module, "net"))
            sigma_data, time = facts["sigma_data"], facts["time"]
        if lora is not None:
            lora.adapt(net)
        super().__init__(
            Denoiser(net, sigma_data, time),
            noise=None,
            weighting=None,
            optimizer=optimizer,
            learning_rate=learning_rate,
            num_classes=num_classes,
            compile=compile,
            channels_last=channels_last,
        )
        self.model_path, self.objective, self.old_policy = Path(model), objective, old_policy
        self.spread, self.baseline, self.advantage_clip, self.eta = spread, baseline, advantage_clip, eta
        if "kind" in getattr(copy, "keywords", {}):
            raise ValueError("AlignmentModule: copy: its kind is plan.precision; leave it out")
        self.copy = copy
        self._reward = (as_one(reward),)  # in a tuple, out of sight of parameters(), state_dict() and train()
        for network in networks(self.reward):
            network.eval().requires_grad_(False)
        self.classes = range(num_classes) if classes is None else classes
        if any(not 0 <= label < num_classes for label in self.classes):
            raise ValueError(f"AlignmentModule: classes must lie in 0..{num_classes - 1}, got {list(self.classes)}")
        refuse_unfit(self.reward, len(self.classes) > 0 and getattr(net, "num_classes", num_classes) > 0)
        refuse_meaningless(self.reward, plan, spread, baseline)
        self._loss, self.kl = by_name(objective, options or {})
        self._start: tuple[Denoiser, ...] = ()
        self._start_sha256: str | None = None
        self._restored: dict[str, Any] | None = None
        self.policies: Policies | None = None
        self.rollout: Rollout | None = None  # of the epoch under way
        self.recipe_plan = self.plan = (
            plan  # the second may change between epochs, but for what decides how many images there are
        )
        self.trained_levels = self._check_levels(plan, levels)

    def _check_levels(self, plan: Plan, levels: int | None) -> int:
        most = plan.steps - (self.objective == "policy_gradient")  # the last step has no density
        if most < 1:
            raise ValueError("AlignmentModule: the policy gradient needs a plan of at least two steps")
        levels = -(-6 * most // 10) if levels is None else levels
        if not 1 <= levels <= most:
            raise ValueError(f"AlignmentModule: levels must lie in 1..{most}, got {levels}")
        return levels

    @staticmethod
    def recipe_facts(node: Mapping[str, Any]) -> dict[str, Any]:
        """What the model's record fills into a recipe's `model` node: net, sigma_data, time."""
        return pretrained.facts(node, "model")

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.shape = tuple(self.trainer.datamodule.data.shape)  # type: ignore[attr-defined]
        if self._start:
            return
        if self.epoch_images % self.batch_size:
            raise UserError(
                f"data.batch_size: an epoch is {self.plan.prompts} prompts x {self.plan.keep} images x {self.trained_levels} "
                f"noise levels = {self.epoch_images} training examples, no multiple of {self.batch_size}"
            )
        record, start = pretrained.record(self.model_path, "model"), load_denoiser(self.model_path)
        own = self.denoiser
        if start.kind != "denoiser":
            raise UserError(f"model.model: {self.model_path} is a {start.kind} model; this trains denoisers")
        if (start.sigma_data, start.time) != (own.sigma_data, own.time):
            raise UserError(
                f"model: sigma_data and time are {own.sigma_data:g} and {own.time}, those of {self.model_path} "
                f"{start.sigma_data:g} and {start.time}; leave them out"
            )
        load_weights(own.net, adapted(start.net.state_dict(), own.net), self.model_path)
        self._start, self._start_sha256 = (start,), record.sha256

    def configure_model(self) -> None:
        super().configure_model()
        if is_sharded(self.denoiser.net):
            raise UserError(
                "trainer.strategy: reward post-training keeps whole networks; use ddp, and model.lora for large ones"
            )

    def train(self, mode: bool = True) -> "AlignmentModule":
        super().train(mode)
        self.denoiser.eval()
        return self

    def on_fit_start(self) -> None:
        (start,) = self._start
        for network in networks(self.reward):
            network.to(self.device)
        if self.memory_format is torch.channels_last:
            for net in (self.denoiser.net, start.net):
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.policies = Policies(self.denoiser, start.to(self.device), self.copy)
        self.roller = Roller(self, self.policies)
        if self._restored is not None:
            self.policies.load({name: value.to(self.device) for name, value in self._restored["old"].items()})
            self.roller.restore(self._restored)
            self._restored = None
        super().on_fit_start()

    def _compile(self) -> None:
        super()._compile()
        assert self.policies is not None
        self.policies.compile()

    # --- an epoch ---

    @property
    def reward(self) -> Reward:
        return self._reward[0]

    @property
    def epoch_images(self) -> int:
        """Training examples of an epoch."""
        return self.plan.images * self.trained_levels

    @property
    def rollout_epoch(self) -> int:
        """Number of the epoch that the next optimiser step belongs to."""
        return self.images_seen // self.epoch_images

    @property
    def evaluations_per_example(self) -> int:
        """Of networks, in training: forwards, backwards (as two), and those of the old policy and the reference."""
        return 3 + (self.objective != "policy_gradient") + bool(self.kl)

    def change_plan(self, **changes: Any) -> None:
        """Another pool, preview_steps, precision or selection from the next epoch on."""
        plan = replace(self.plan, **changes)
        if (plan.prompts, plan.keep, plan.steps) != (self.plan.prompts, self.plan.keep, self.plan.steps):
            raise ValueError("AlignmentModule: prompts, keep and steps of a plan do not change within a run")
        self.plan = plan

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, before the batch moves: examples of what the epoch drew; it is drawn with the first batch."""
        return self.roller.examples(batch["position"], batch["noise"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        assert self.policies is not None
        label, sigma = batch.get("label"), batch["sigma"]
        x = self._laid_out(batch["x"])
        x_hat = self.denoiser(x, sigma.to(x.dtype), label)
        with torch.no_grad():
            reference = self.policies.reference(x, sigma.to(x.dtype), label) if self.kl else None
            is_chain = self.objective == "policy_gradient"
            old = None if is_chain else self.policies.old(x, sigma.to(x.dtype), label)
        if is_chain:
            result = self._loss(
                x, batch["x_next"], x_hat, reference, sigma, batch["sigma_next"], batch["log_prob"], batch["advantage"],
                eta=self.eta, advantage_clip=self.advantage_clip,
            )  # fmt: skip
        else:
            target = batch["advantage"]
            if self.objective == "nft":
                target = optimality(target, self.advantage_clip)
            result = self._loss(batch["x0"], x_hat, old, reference, sigma, target, advantage_clip=self.advantage_clip)
        return {
            "loss": result.loss.mean(),
            "per_sample_loss": result.loss.detach(),
            "log_snr": sigma_to_log_snr(sigma, self.denoiser.sigma_data),
            "position": batch["position"],
            "kl": result.kl,
        }

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.images_seen % self.epoch_images == 0:
            assert self.policies is not None
            self.policies.follow(self.old_policy(self.images_seen // self.batch_size))
            self.rollout = None

    # --- checkpoints ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        assert self.policies is not None
        checkpoint["alignment"] = {
            "model": self._start_sha256,
            "old": self.policies.state(),
            "recipe_plan": asdict(self.recipe_plan),
            "plan": asdict(self.plan),
            **self.roller.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        restored = checkpoint["alignment"]
        if restored["model"] != self._start_sha256:
            raise UserError(
                f"the checkpoint started from another model: its weights have the hash {restored['model'][:12]}, those of "
                f"{self.model_path} {str(self._start_sha256)[:12]}; put the old one back, or choose another name"
            )
        self._restored = restored
