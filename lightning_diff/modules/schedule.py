"""Learning when to call a trained model: a time grid, or a step policy, as a run like any other."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ..artifacts import ModelRecord, load_denoiser
from ..artifacts.schedule import Schedule, save_schedule
from ..artifacts.step_policy import LearnedPolicy, save_step_policy
from ..condition import AnyCondition, of_batch, takes_condition, without
from ..data import Data
from ..denoiser import Denoiser
from ..foundation import rng
from ..foundation.errors import UserError
from ..foundation.processes import from_all
from ..learning_rate import Constant, LearningRate
from ..nets.frozen import Frozen
from ..noise import sigma_to_log_snr
from ..rewards import name_of
from ..samplers.guidance import guided
from ..schedules.actor_critic import ActorCritic
from ..schedules.environments import EndPoint
from ..schedules.step_policy import StepPolicy
from ..schedules.stick_breaking import StickBreaking
from . import conditioning, pretrained
from .base import CountedModule, Optimizer
from .sharding import ShardedStrategy
from .training_data import training_data

AVERAGING = ("EMA", "Evaluate", "NoiseLevels", "SampleGrid", "Tangents")  # callbacks that watch a denoiser in training


@runtime_checkable
class Learner(Protocol):
    """What learns; a module whose state is all that it knows (see `schedules.StickBreaking`).

    Calling it with (model, noise, exploration_noise, label) returns a loss per trajectory and details for `learn`.
    """

    sigma_max: float

    def exploration_noise(
        self, seed: int, positions: rng.Positions
    ) -> Float[Tensor, "b k"] | list[torch.Generator]: ...
    def learn(self, details: dict[str, Tensor]) -> None: ...
    def summary(self, details: dict[str, Tensor]) -> dict[str, float]: ...


class ScheduleModule(CountedModule):
    """A trained denoiser, frozen, and a learner of the noise levels to call it at.

    The noise of trajectory number p is the training stream's, and with the learner's exploration noise a function of (seed, p).
    What it learns from, beside the gradient, is each step's whole global batch in order of position. So a killed run resumes
    exactly, and other numbers of processes learn the same up to the order of summation. The model is no part of the module:
    checkpoints name it by its file's hash. The end leaves `schedule.json`, or for a `StepPolicy` the policy in
    `step_policy.safetensors`.

    Args:
        model: run folder or model file of the denoiser.
        learner: default `StickBreaking()`, 32 steps of ART's cost.
        optimizer: default Adam at 1e-3.
        learning_rate: factor on the optimiser's rate as a function of images (trajectories) seen; default constant.
        guidance: scale that the model is used with; 1 is none.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("model",)  # the hash of its weights is compared

    def __init__(
        self,
        model: str | Path,
        learner: nn.Module | None = None,
        *,
        optimizer: Optimizer = partial(torch.optim.Adam, lr=1e-3),  # noqa: B008 (immutable)
        learning_rate: LearningRate = Constant(),  # noqa: B008 (immutable)
        guidance: float = 1.0,
    ):
        super().__init__(optimizer=optimizer, learning_rate=learning_rate)
        learner = StickBreaking() if learner is None else learner
        if not isinstance(learner, Learner):
            raise ValueError(
                f"ScheduleModule: {type(learner).__name__} is no learner; take one from lightning_diff.schedules"
            )
        self.model_path, self.learner, self.guidance = Path(model), learner, guidance
        self.product = "step_policy.safetensors" if isinstance(learner, StepPolicy) else "schedule.json"
        self.calls = 0  # evaluations of the model by one sample, over all processes, in finished steps
        self._details: dict[str, Tensor] = {}  # of the last step
        self._model: Frozen[Denoiser] | None = None
        self._prompts = 0  # how many, of a model that takes conditions
        self._record: ModelRecord
        self._seen: list[tuple[Tensor, dict[str, Tensor]]] = []  # of the step under way
        self._calls = 0

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._record = pretrained.record(self.model_path, "model")
        if self._record.kind == "consistency":
            raise UserError(
                f"model.model: {self.model_path} is a consistency model, whose levels evaluate --search finds"
            )
        data = training_data(self.trainer).data
        if self._record.shape != tuple(data.shape):
            raise UserError(f"model.model: the model is for {self._record.shape}, the data are {data.shape}")
        conditioning.refuse_buckets(data, "ScheduleModule")
        self._refuse_unfit_conditions(data)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if type(callback).__name__ in AVERAGING:
                raise UserError(
                    f"callbacks: {type(callback).__name__} watches a denoiser that is trained; leave it out"
                )
        if self._model is None:
            self._model = Frozen(self._loaded(data))

    def _loaded(self, data: Data) -> Denoiser:
        """The model, which understands what the data say of an example: a label, a condition, or the number of a prompt."""
        model = load_denoiser(self.model_path)
        if not takes_condition(model.net):
            return model
        conditioning.keep_null_condition(model.net, data)
        if self.guidance != 1:
            conditioning.null_condition(model.net, "model.guidance")
        if data.condition_shapes is None or getattr(data, "prompts", None) is not None:
            prompts = conditioning.prompts(model.net, data)
            self._prompts = len(prompts)
            return model.told(prompts)
        conditioning.refuse_unlike_condition(model.net, data)
        return model

    def _refuse_unfit_conditions(self, data: Data) -> None:
        """UserError for labels or guidance that the model cannot be called with; a remark where that is not known."""
        conditions, where, num_classes = self._record.conditions, self.model_path, data.num_classes
        takes_labels = (
            conditions.num_classes and not conditions.takes_condition
        )  # which has numbers of prompts for labels
        if takes_labels and num_classes > conditions.num_classes:
            raise UserError(
                f"data: {num_classes} classes, {where} has {conditions.num_classes}; take data.model={where}"
            )
        labelled = num_classes > 0 or not conditions.num_classes or conditions.takes_condition
        if (fault := conditions.fault(self.guidance, labelled=labelled)) is not None:
            raise UserError(f"{'data' if fault[0] == 'labels' else 'model.guidance'}: of {where}: {fault[1]}")
        if (doubt := conditions.doubt(self.guidance, labelled=labelled)) is not None and self.trainer.is_global_zero:
            print(f"model.guidance: of {where}: {doubt}", flush=True)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ShardedStrategy):
            raise UserError("trainer.strategy: a learner of schedules is too small to be sharded; use ddp")

    def on_fit_start(self) -> None:
        if self._model is not None:
            self._model.to(self.device)

    def prepare_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """On the CPU, before the batch moves: the exploration noise of each trajectory, by position, and its prompt."""
        batch.pop("image", None)
        if self._prompts:
            batch = without(batch) | {"label": batch["position"] % self._prompts}
        elif not self._record.conditions.takes_condition and not self._record.num_classes:
            batch.pop("label", None)
        batch["exploration_noise"] = self.learner.exploration_noise(self.seed, batch["position"].tolist())
        return batch

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        given = of_batch({name: value for name, value in batch.items() if isinstance(value, Tensor)})
        loss, details = self.learner(self._denoise, batch["noise"], batch["exploration_noise"], given)
        details = {name: value.detach() for name, value in details.items()}
        self._seen.append((batch["position"], details))
        start = torch.full_like(loss, self.learner.sigma_max)
        return {
            "loss": loss.mean(),
            "per_sample_loss": loss.detach(),
            "log_snr": sigma_to_log_snr(start, self._record.sigma_data),
            "position": batch["position"],
        }

    def _denoise(self, x: Tensor, sigma: Tensor, label: AnyCondition | None = None) -> Tensor:
        self._calls += len(x) * (1 if self.guidance == 1 else 2)
        assert self._model is not None
        return guided(self._model.value, label, scale=self.guidance)(x, sigma)

    def _learn(self) -> None:
        if not self._seen:
            return
        positions, parts = zip(*self._seen, strict=True)
        self._seen.clear()
        order = from_all(torch.cat(positions)).argsort()
        details = {name: from_all(torch.cat([part[name] for part in parts]))[order] for name in parts[0]}
        self.learner.learn(details)
        self._details = details
        self.calls += self._calls * self.trainer.world_size
        self._calls = 0

    @property
    def summary(self) -> dict[str, float]:
        """The learner's, of the last step; empty before the first. Reads the device."""
        return self.learner.summary(self._details) if self._details else {}

    def grid(self, steps: int | None = None) -> Float64[Tensor, " nodes"] | None:
        """The noise levels learned so far; None for a learner that leaves no grid."""
        if isinstance(self.learner, ActorCritic | StickBreaking):
            return self.learner.grid(steps)
        return None

    def on_train_end(self) -> None:
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir)
        if isinstance(self.learner, StepPolicy):
            save_step_policy(folder, self.policy())
        else:
            save_schedule(folder, self.schedule())

    def schedule(self) -> Schedule:
        """The grid as it is kept."""
        grid = self.grid()
        assert grid is not None
        environment = getattr(self.learner, "environment", None)
        protocol = self._protocol() | {"sigma_max": self.learner.sigma_max, "learner": type(self.learner).__name__}
        if environment is not None:
            protocol["reward"] = type(environment).__name__
        costs = {"calls": float(self.calls)}
        method = "end_point" if isinstance(environment, EndPoint) else "art_rl"
        solver = getattr(environment, "solver", "euler")
        return Schedule(grid.tolist(), method, solver, protocol, self._record.identity, costs)

    def policy(self) -> LearnedPolicy:
        """The step policy as it is kept."""
        assert isinstance(self.learner, StepPolicy)
        reward = self.learner.reward
        of = "fine solution" if reward is None else name_of(reward)
        protocol = self._protocol() | {"reward": of}
        return LearnedPolicy(self.learner, protocol, self._record.identity, {"calls": float(self.calls)})

    def _protocol(self) -> dict[str, Any]:
        return {"seed": int(self.seed), "trajectories": self.images_seen, "guidance": self.guidance}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["model"], checkpoint["calls"] = self._record.identity, self.calls

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self._trainer is None:  # for its weights alone
            return
        self.calls = checkpoint["calls"]
        if checkpoint["model"] != self._record.identity:
            raise UserError(
                f"the checkpoint is of a schedule for another model: its weights have the hash {checkpoint['model'][:12]}, "
                f"those of {self.model_path} {self._record.identity[:12]}; put the old one back, or choose another name"
            )
