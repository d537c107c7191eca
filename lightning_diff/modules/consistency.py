"""Consistency models: from a trained denoiser to one that samples in one or two evaluations (sCM)."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from ..artifacts import TrainedWith, load_weights
from ..condition import of_batch, takes_condition
from ..data import Augment, Stream
from ..denoiser import Denoiser, Prediction, Time, TimeName
from ..foundation import rng
from ..foundation.errors import UserError
from ..learning_rate import Constant, LearningRate
from ..nets.frozen import Frozen
from ..noise import LogNormal, NoiseLaw, as_training_law
from ..objectives import consistency_loss, path_regression_loss
from ..objectives.consistency import Derivative, Normalisation
from ..schedules.sampling import SIGMA_MAX
from ..weighting import Uniform
from . import conditioning, pretrained
from . import lightning_internals as internals
from .compiling import Compile, pending
from .consistency_choices import Objective, default_weighting, refuse_unfit, refuse_unguided, refuse_unknown
from .critic import Critic
from .denoiser_module import Optimizer, StepOutputs, TrainingModule
from .lightning_internals import State
from .network_check import no_forward_mode, refuse_no_forward_mode, why_no_forward_mode
from .path_batches import Nodes, PathBatches
from .sharding import is_sharded
from .teacher import load_teacher, refuse_other_teacher, refuse_untaught
from .training_data import training_data


class ConsistencyModule(TrainingModule):
    """A consistency model from a denoiser: continuous-time distillation and training (sCD and sCT, arXiv 2410.11081), or regression
    onto the denoiser's sampling paths (CMT, arXiv 2509.24526).

    The network starts with the denoiser's weights and keeps its time conditioning, EDM's or TrigFlow's. But for "training" the
    denoiser is the teacher, too, without gradients, dropout or a place in checkpoints, which name it by its file's hash; resuming
    with another one is refused.

    Args:
        teacher: run folder or model file of the denoiser; its averaged weights are what is there.
        net: the network; None for one like the teacher's, a mapping for one like it but for these arguments, {dropout: 0.2} for
            instance. In a recipe's resolved form the network is written out, as are `sigma_data` and `time`.
        start: run, model folder or file whose weights step 0 has in place of the teacher's: a consistency model that is to be
            trained on, with a critic or a reward for instance, or a denoiser. Of the teacher's parametrisation, and, beside a
            critic, of its network. Not for "training". A run that resumes does not look at it again.
        objective: "distillation" follows the teacher's velocity, "training" that of the examples themselves. "regression" learns
            where the teacher's sampling paths end (`objectives.path_regression_loss`): it takes no derivative of the network and no
            images of the data, so that their `flip` and `augment` do not matter, nor of the arguments below `normalisation`, `c`,
            `derivative` and `warmup`.
        noise: law of the training noise levels; default LogNormal(-1.0, 1.4), the paper's for CIFAR-10. Of "regression" the levels
            are the paths' nodes, and of the law only the largest level counts, if it has one (`noise.WithLargest`).
        nodes: of each path in "regression", and evaluations of the teacher for it, >= 2.
        weighting: default `weighting.AdaptiveWeight`, learned, which starts at the optimum for tangents of norm one if they are
            normalised to that. `weighting.Uniform` switches it off, and is the default of "regression" and with
            `noise.WithLargest`, in whose band a learned weight grows without end.
        optimizer: default RAdam at 1e-4 with betas (0.9, 0.99), the paper's for CIFAR-10.
        learning_rate: factor on the optimiser's rate as a function of images seen; default constant.
        warmup: images over which the network's own derivative comes into the tangent; the paper's 10,000 steps. In a
            recipe, a number below 1 is a share of the run. Give 0 where `start` is a consistency model: the warm-up draws its
            weights back towards a denoiser.
        normalisation: of the tangent, "l2", "rms", "clip" or "none" (see `objectives.consistency_loss`).
        c: what is added to the tangent's norm.
        derivative: "jvp", "two_pass", or, for networks without forward-mode rules, "central" or "discrete". A network that is
            sharded or checkpoints its activations takes two passes in any case.
        guidance: (low, high) of the scale of the teacher's classifier-free guidance, drawn uniformly for each example. The network
            receives it as an input: sampling with guidance then costs no second evaluation. Not for "training", and only from a
            teacher that was trained with condition_dropout.
        critic: distribution matching beside this loss, for one step near the teacher (see `Critic`); None for none. Not for
            "training".
        sigma_data: the teacher's.
        num_classes: number of classes, 0 for none (a fact of the data).
        time, prediction: the teacher's.
        bounds: (low, high) of the data's values: the outputs of student and teacher are clamped to them (see `Denoiser`). None:
            those of `start`, or the teacher's, or none.
        compile: compile the loss, derivative included, or, where it takes more than one pass, as `DiffusionModule` does;
            checkpoints do not change.
        channels_last: keep weights and activations in NHWC.
    """

    OF_RUN: ClassVar[tuple[str, ...]] = ("warmup",)
    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("teacher",)  # the hash of its weights is compared

    def __init__(
        self,
        teacher: str | Path,
        net: nn.Module | dict[str, Any] | None = None,
        *,
        start: str | Path | None = None,
        objective: Objective = "distillation",
        noise: NoiseLaw | None = None,
        nodes: int = 16,
        weighting: nn.Module | None = None,
        optimizer: Optimizer = partial(torch.optim.RAdam, lr=1e-4, betas=(0.9, 0.99)),  # noqa: B008 (immutable)
        learning_rate: LearningRate = Constant(),  # noqa: B008 (immutable)
        warmup: int | float = 5_120_000,
        normalisation: Normalisation = "l2",
        c: float = 0.1,
        derivative: Derivative = "jvp",
        guidance: tuple[float, float] | None = None,
        critic: Critic | None = None,
        sigma_data: float | None = None,
        num_classes: int = 0,
        time: TimeName | Time | None = None,
        prediction: Prediction | None = None,
        bounds: tuple[float, float] | None = None,
        compile: bool | Compile = False,
        channels_last: bool = False,
    ):
        refuse_unknown(objective=objective, normalisation=normalisation, derivative=derivative)
        refuse_unfit(objective, start=start, noise=noise, warmup=warmup, c=c, guidance=guidance, critic=critic)
        denoiser = pretrained.denoiser(
            self.recipe_facts,
            kind="consistency",
            teacher=teacher,
            start=start,
            net=net,
            sigma_data=sigma_data,
            time=time,
            prediction=prediction,
            bounds=bounds,
            guidance=guidance,
        )
        if guidance is not None:
            refuse_unguided(denoiser.net, num_classes)
        noise = LogNormal(-1.0, 1.4) if noise is None else noise
        denoiser.sigma_max = as_training_law(noise).largest
        paths = PathBatches(nodes, denoiser.sigma_max or SIGMA_MAX) if objective == "regression" else None
        if paths is not None:
            noise = paths.law
            weighting = Uniform() if weighting is None else weighting
        super().__init__(
            denoiser,
            noise=noise,
            weighting=default_weighting(denoiser.net, normalisation, noise) if weighting is None else weighting,
            optimizer=optimizer,
            learning_rate=learning_rate,
            num_classes=num_classes,
            compile=compile,
            channels_last=channels_last,
        )
        self.teacher_path, self.objective, self.warmup = Path(teacher), objective, warmup
        self._paths = paths
        self.start = pretrained.StartingWeights(start, student=True)
        self.normalisation, self.c, self.derivative, self.guidance = normalisation, c, derivative, guidance
        self.critic = critic
        if critic is not None:
            if self.compiled is not None and self.compiled.optimizer:
                raise ValueError("ConsistencyModule: compile.optimizer: with a critic two take turns; leave it out")
            critic.like(denoiser)
            denoiser.levels = critic.levels
            self.make_optimizer = critic.in_turns(optimizer)
        self._teacher: Frozen[Denoiser] | None = None
        self._teacher_sha256: str | None = None
        self._not_found: UserError | None = None
        self._loss = consistency_loss

    @staticmethod
    def recipe_facts(node: Mapping[str, Any]) -> dict[str, Any]:
        """What the teacher's record fills into a recipe's `model` node: net, sigma_data, time, prediction, bounds.

        Bounds are those of `start`, where there is one that has some.
        """
        return pretrained.facts(node, "teacher", {"guided": True} if node.get("guidance") else None)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit" or self._teacher_sha256 is not None:
            return
        try:
            is_followed = self.objective != "training"
            teacher, record = load_teacher(self.teacher_path, self.denoiser, is_followed=is_followed)
        except UserError as error:
            if self.objective != "training":
                raise
            self._not_found = error  # no matter to a run that resumes from a checkpoint
            return
        self._teacher_sha256 = record.identity
        if is_followed:
            self._teacher = Frozen(teacher)
            augments = self._paths is None and training_data(self.trainer).data.augment is not None
            remark = refuse_untaught(record, self.teacher_path, guidance=self.guidance, augments=augments)
            if remark is not None and self.trainer.is_global_zero:
                print(remark, flush=True)
        net = self.denoiser.net
        if self.start.path is not None:
            self.start.setup(self.denoiser, self.trainer)
        elif not any(weight.is_meta for weight in net.parameters()):  # as on all processes but the first, if sharded
            load_weights(net, pretrained.with_guidance_input(net, teacher.net), self.teacher_path)
        if self.critic is not None:
            self.critic.follow(teacher, self.teacher_path)

    def begin(self, *, resumes: bool, described: bool = False) -> None:
        if not resumes and (self.start.path is None or self.critic is not None):  # whose weights start as the teacher's
            pretrained.refuse_other_network(self.denoiser, self.teacher_path, "teacher")
        self.start.take(self.denoiser, resumes=resumes, described=described)

    def trained_with(self, augment: Augment | None) -> TrainedWith:
        seen = augment if self._paths is None else None
        return replace(super().trained_with(seen), label_dropout=0.0, guidance=self.guidance)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self._paths is not None:
            self._paths.clear()
        if self._teacher is not None:
            self._teacher.to(self.device, self.memory_format)
            self.keep_null_condition(self._teacher.value.net)
            if self.guidance is not None and takes_condition(self._teacher.value.net):
                conditioning.null_condition(self._teacher.value.net, "model.guidance")
        for net in () if self.critic is None else self.critic.place(self.device, self.memory_format):
            self.keep_null_condition(net)

    def on_fit_end(self) -> None:
        if self._paths is not None:
            self._paths.clear()

    def on_train_start(self) -> None:  # not before: of a network in shards, the checkpoint is read after `on_fit_start`
        if self._not_found is not None and not self.images_seen:
            raise self._not_found
        self.start.refuse_missing(self.images_seen)
        super().on_train_start()

    def _refuse_no_derivative(self, shape: Sequence[int], device: torch.device | str) -> None:
        if self._paths is None and self.derivative in ("jvp", "two_pass"):
            refuse_no_forward_mode(self.denoiser, shape, self.num_classes, device)

    def configure_model(self) -> None:
        if self.critic is not None:
            internals.expect_unused_weights(self.trainer.strategy)
        will_be_sharded = isinstance(self.trainer.strategy, ModelParallelStrategy)
        if self._paths is None and self.compiled is not None and (will_be_sharded or not self._is_one_pass):
            # One mask for passes that are compiled and ones that are not.
            self.compiled = replace(self.compiled, eager_random=True)
        super().configure_model()

    def _compile(self, how: Compile) -> None:
        if self.critic is not None:
            how.network(self.critic.denoiser.net)
        # In one pass the loss, not the network: torch has no forward mode through a compiled one, and runs it as it is.
        if self._is_one_pass:
            self._loss = how.function(consistency_loss)
            return
        super()._compile(how)
        if self._teacher is not None:
            how.network(self._teacher.value.net)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> StepOutputs:
        try:
            return self._step(batch, batch_idx)
        except (RuntimeError, ValueError) as error:  # of a kernel that only this batch takes
            if (reason := why_no_forward_mode(error)) is None:
                raise
            raise no_forward_mode(self.denoiser.net, reason) from error

    def _step(self, batch: dict[str, Tensor], batch_idx: int) -> StepOutputs:
        self._rekey_dropout(batch_idx)
        turn = None if self.critic is None else self.critic.turn(self.images_seen, self.batch_size)
        if self.critic is not None and turn == "critic":
            return self.critic.denoise(self.denoiser, batch)
        nodes = None if self._paths is None else self._nodes(batch, batch_idx, self._paths)
        # Then this, as its graphs through other networks are gone when the student's are there.
        matched = self.critic.match(self.denoiser, batch) if self.critic is not None and turn == "student" else None
        with nullcontext() if matched is None else pending():
            outputs = self._follow_tangent(batch) if nodes is None else self._regress(batch, nodes)
        if matched is not None:
            outputs["loss"], outputs["critic"] = outputs["loss"] + matched[0], matched[1]
        return outputs

    def _follow_tangent(self, batch: dict[str, Tensor]) -> StepOutputs:
        """sCM's loss."""
        x0 = self._laid_out(batch["image"])
        sigma = self.noise.icdf(batch["u"])
        share = min(self.images_seen / self.warmup, 1.0) if self.warmup else 1.0
        result = self._loss(
            self.denoiser,
            x0,
            sigma,
            batch["noise"],
            of_batch(batch),
            teacher=self._teacher.value if self._teacher is not None else None,
            guidance=batch.get("guidance"),
            warmup=torch.full((), share, device=x0.device),  # a number would be compiled in
            normalisation=self.normalisation,
            c=self.c,
            derivative="two_pass" if self.derivative == "jvp" and not self._is_one_pass else self.derivative,
            augment=batch.get("augment"),
        )
        loss = result.loss.clone() if self.replays_graphs else result.loss  # kept by callbacks until the step's end
        outputs = self._outputs(batch, sigma.to(x0.dtype), loss)
        outputs["details"] = {
            "tangent_norm": result.tangent.flatten(1).norm(dim=1),
            "dF_dt": result.dF_dt.flatten(1).norm(dim=1),
            "warmup": torch.full_like(result.loss, share),
        }
        return outputs

    def _nodes(self, batch: dict[str, Tensor], batch_idx: int, paths: PathBatches) -> Nodes:
        """What "regression" learns in this step."""
        assert self._teacher is not None
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        place = paths.place(self.images_seen, self.batch_size, micro_batch, self.critic)
        return paths.nodes(self._teacher.value, batch, place, self._read, self._laid_out)

    def _regress(self, batch: dict[str, Tensor], nodes: Nodes) -> StepOutputs:
        """The loss of "regression"."""
        conditioning = {} if nodes.guidance is None else {"guidance": nodes.guidance}
        loss = path_regression_loss(self.denoiser, nodes.x, nodes.sigma, nodes.end, nodes.given, **conditioning)
        return self._outputs(batch, nodes.sigma.to(loss.dtype), loss.clone() if self.replays_graphs else loss)

    def _read(self, positions: Tensor) -> dict[str, Tensor]:
        """The batch at these positions of the stream, on the device."""
        stream = Stream(training_data(self.trainer).data, self.seed)
        with torch.random.fork_rng(devices=[]):  # whatever reads images: the step's dropout is as without
            batch = self.prepare_batch(stream.__getitems__(positions.cpu().numpy()))
        return {name: value.to(self.device) for name, value in batch.items()}

    @property
    def looks_at_images(self) -> bool:
        return self._paths is None

    @property
    def kept_images(self) -> int:
        """Of the teacher's paths, for each example of a batch: all nodes and the end."""
        return 0 if self._paths is None else self._paths.count + 1

    @property
    def _is_one_pass(self) -> bool:
        """Whether a pass in forward mode gives the loss: that of a sharded or checkpointed network has no gradient."""
        net = self.denoiser.net
        if self._paths is not None:
            return False
        return self.derivative == "jvp" and not is_sharded(net) and not getattr(net, "checkpointing", False)

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, before the batch moves: the teacher's guidance scale of each example, by position."""
        batch = super().prepare_batch(batch)
        if self._paths is not None:  # of images that are not looked at
            batch.pop("augment", None)
        if self.guidance is not None:
            low, high = self.guidance
            u = rng.uniform(self.seed, "guidance", batch["position"].numpy())
            batch["guidance"] = torch.from_numpy(low + (high - low) * u).float()
        if self.critic is None:
            return batch
        turn = self.critic.turn(self.images_seen, self.batch_size)
        return self.critic.draw(batch, turn, self.seed, self.images_seen, self.batch_size)

    def _learn(self) -> None:
        super()._learn()
        if self.critic is not None:
            self.critic.after_step()

    def on_save_checkpoint(self, checkpoint: State) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._teacher is not None:
            checkpoint["teacher"] = self._teacher_sha256

    def on_load_checkpoint(self, checkpoint: State) -> None:
        super().on_load_checkpoint(checkpoint)
        # Of a training without a teacher (resume=force): its weights are a start like any other.
        if self._teacher is not None:
            own = str(self._teacher_sha256)
            refuse_other_teacher(str(checkpoint.get("teacher", own)), own, self.teacher_path)
