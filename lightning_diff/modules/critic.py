"""A critic: a denoiser of the student's own samples, which shows where these are more frequent than the teacher's."""

import copy
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ..artifacts import load_weights
from ..condition import of_batch
from ..data.stream import drawn
from ..denoiser import Denoiser
from ..foundation import lengths, rng
from ..foundation.errors import UserError
from ..nets.frozen import Frozen
from ..noise import LogNormal, NoiseLaw, as_training_law, sigma_to_log_snr
from ..objectives import denoising_loss, matching_loss
from ..objectives.distribution_matching import Matching, teacher_mean
from ..precision import quantized_copy
from ..precision.kernels import Kind
from ..rewards import Reward, name_of, needs_label, networks
from ..schedules.sampling import SIGMA_MAX
from . import pretrained
from .compiling import pending
from .denoiser_module import ChangesAfterStep, StepOutputs
from .in_turns import MakeInTurns
from .optimizer_state import Optimizer

Turn = Literal["before", "critic", "student"]


class Critic(nn.Module):
    """Distribution matching beside a student's own loss: DMD as in rCM (arXiv 2510.08431), or SiD (arXiv 2404.04057).

    The critic starts with the teacher's weights, and learns to denoise the student's samples G by the denoising loss. The student's
    loss then has weight x that of `objectives.matching_loss`, which follows the difference of the two denoisers at G with noise.
    Student and critic take turns, one optimiser step each, as a function of the images seen: of every `every` steps after `start`
    the last one moves the student, the others the critic. Which samples, levels and noise is a function of (seed, position). So a
    run resumes exactly between any two of them, and two processes train what one trains.

    Both networks are conditioned on what the student is: classes or conditions, augmentation, and, where the teacher is guided,
    the scale of guidance.

    Args:
        loss: "dmd", or "sid", for which the student's steps pass back through teacher and critic, too.
        weight: of this loss, summed over dimensions, beside the student's, which `AdaptiveWeight` brings to a sum, too: a tangent
            of norm one against a residual whose norm grows with the root of the dimensions. rCM's balance is about 1.5 for 64
            of them, and 0.3 for 3x32x32. The loss of objective "regression" is a mean: weigh this one so many times less.
        alpha: SiD's; 1.2, and 1.0 in SiDA.
        every: steps of which the student takes one, >= 2; rCM takes 5, SiD 2.
        start: images before which there is no critic; rCM's is the end of the tangent's warm-up. In a recipe, a number below 1
            is a share of the run.
        noise: law of the levels at which the two denoisers are compared; default ln(sigma / sigma_data) ~ N(0, 1.6^2), rCM's.
        own_noise: law of the levels that the critic is trained at; default `noise`. SiD's is LogNormal(-1.2, 1.2).
        optimizer: of the critic; default AdamW at 1e-4 with weight decay 0.01. The module's learning rate is a factor on it, too.
        sigma_max: the level that the student's samples start from; None for the one that its sampler starts from: 80, or the
            largest of its law of noise levels (`noise.WithLargest`).
        levels: lower levels of further steps of the student, decreasing. How many it takes is drawn for each optimiser step, and
            the last one has the gradient. None: one step, always.
        limits: (low, high) to which samples are clipped before they are noised; None for none.
        precision: of the teacher where it is compared, "full" or a kind of `precision.quantized_copy`; "dmd" alone.
        reward: raised along its own gradient by the student's samples, clipped to [-1, 1] (RTDMD, arXiv 2605.26108): the student is
            matched with the teacher's density tilted towards it. It has to be differentiable by the images; `AlignmentModule` takes
            any. None for none.
        reward_weight: of the reward's mean, which the student's loss loses.
    """

    OF_RUN: ClassVar[tuple[str, ...]] = ("start",)
    denoiser: Denoiser

    def __init__(
        self,
        loss: Matching = "dmd",
        *,
        weight: float = 1.0,
        alpha: float = 1.2,
        every: int = 5,
        start: int | float = 0,
        noise: NoiseLaw | None = None,
        own_noise: NoiseLaw | None = None,
        optimizer: Optimizer = partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01),  # noqa: B008 (immutable)
        sigma_max: float | None = None,
        levels: tuple[float, ...] = (),
        limits: tuple[float, float] | None = None,
        precision: Kind | Literal["full"] = "full",
        reward: Reward | None = None,
        reward_weight: float = 1.0,
    ):
        super().__init__()
        if loss not in get_args(Matching):
            raise ValueError(f"Critic: loss must be one of {', '.join(get_args(Matching))}, got {loss!r}")
        if precision not in ("full", *get_args(Kind)):
            raise ValueError(f"Critic: precision must be one of full, {', '.join(get_args(Kind))}, got {precision!r}")
        if loss == "sid" and precision != "full":
            raise ValueError(f"Critic: sid goes back through the teacher, which {precision} does not; take loss=dmd")
        if every < 2 or not weight > 0 or start < 0:
            raise ValueError(f"Critic: need every >= 2, weight > 0 and start >= 0, got {every}, {weight:g}, {start}")
        if not reward_weight > 0:
            raise ValueError(f"Critic: reward_weight must be positive, got {reward_weight:g}")
        if sigma_max is not None and not 0 < sigma_max < math.inf:
            raise ValueError(f"Critic: sigma_max must be positive, got {sigma_max:g}")
        _refuse_rising(levels, math.inf if sigma_max is None else sigma_max)
        if limits is not None and not limits[0] < limits[1]:
            raise ValueError(f"Critic: limits must be (low, high), got {limits[0]:g} and {limits[1]:g}")
        if any(law is not None and as_training_law(law).learns for law in (noise, own_noise)):
            raise ValueError("Critic: noise: a law that learns from losses has none here; take noise.LogNormal")
        lengths.refuse_parts("Critic", start=start)
        self.loss, self.weight, self.alpha, self.every, self.start = loss, weight, alpha, every, start
        self.noise, self.own_noise, self.make_optimizer = noise, own_noise, optimizer
        self.sigma_max, self.levels, self.limits, self.precision = sigma_max, tuple(levels), limits, precision
        self._reward, self.reward_weight = None if reward is None else Frozen(reward), reward_weight
        self.memory_format: torch.memory_format = torch.contiguous_format
        self._teacher: Frozen[Denoiser] | None = None

    # --- before the first step ---

    def like(self, student: Denoiser) -> None:
        """Take a network like the student's, with weights of its own."""
        self.denoiser = student.around(copy.deepcopy(student.net))
        self.denoiser.kind = "denoiser"
        if self.sigma_max is None:
            self.sigma_max = student.sigma_max or SIGMA_MAX
            _refuse_rising(self.levels, self.sigma_max)
        law = LogNormal(math.log(student.sigma_data), 1.6) if self.noise is None else self.noise
        self.noise, self.own_noise = law, law if self.own_noise is None else self.own_noise

    def in_turns(self, student: Optimizer) -> MakeInTurns:
        """What makes the optimiser of the student's parameters and, after them, of these."""
        return MakeInTurns(student, self.make_optimizer, len(list(self.parameters())), "model.critic.optimizer")

    def follow(self, teacher: Denoiser, path: Path) -> None:
        """Start with the teacher's weights, and be compared with it."""
        net = self.denoiser.net
        if not any(weight.is_meta for weight in net.parameters()):  # as on all processes but the first, if sharded
            load_weights(net, pretrained.with_guidance_input(net, teacher.net), path)
        try:
            low = teacher if self.precision == "full" else quantized_copy(teacher, self.precision)
        except UserError as error:
            raise UserError(f"model.critic.precision: {error}") from error
        assert isinstance(low, Denoiser)
        self._teacher = Frozen(low)

    def place(self, device: torch.device, memory_format: torch.memory_format) -> tuple[nn.Module, nn.Module]:
        """Lay the networks out where they are used, its own and the teacher's; returns both."""
        self.denoiser.net.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.memory_format = memory_format
        assert self._teacher is not None
        self._teacher.to(device, memory_format)
        for network in [] if self._reward is None else networks(self._reward.value):
            Frozen(network).to(device)
        return self.denoiser.net, self._teacher.value.net

    def summary(self, batch_size: int) -> str:
        """When it moves, in a line."""
        first = -(-self.start // batch_size) + 1
        size = sum(weight.numel() for weight in self.parameters())
        moves = f"moves in {self.every - 1} of {self.every} steps from step {first:,.0f} on"
        return f"critic: {self.loss}, {size:,} parameters, {moves}"

    @property
    def passes_at_once(self) -> int:
        """Passes through a network whose graphs are held at once: the student's two losses, or three networks for SiD's."""
        return 2 if self.loss == "dmd" else 3

    # --- a step ---

    def after_step(self) -> None:
        """Let a network that does something to its weights after each step do it."""
        if isinstance(net := self.denoiser.net, ChangesAfterStep):
            net.after_step()

    def turn(self, images: int, batch_size: int) -> Turn:
        """Who moves in the step that begins after so many images; "before" is the student without this loss."""
        step = images // batch_size - math.ceil(self.start / batch_size)
        if step < 0:
            return "before"
        return "student" if step % self.every == self.every - 1 else "critic"

    def student_steps(self, images: int, batch_size: int) -> int:
        """How many of the steps that so many images were seen in moved the student."""
        steps, alone = images // batch_size, math.ceil(self.start / batch_size)
        return min(steps, alone) + max(steps - alone, 0) // self.every

    def images_before(self, student_step: int, batch_size: int) -> int:
        """Images seen before the student's step of this number, from 0 on."""
        alone = math.ceil(self.start / batch_size)
        beside = student_step - alone
        return batch_size * (student_step if beside < 0 else alone + beside * self.every + self.every - 1)

    def draw(self, batch: dict[str, Tensor], turn: Turn, seed: int, images: int, batch_size: int) -> dict[str, Tensor]:
        """On the CPU: what the batch needs besides, by position. Nothing before there is a critic.

        `critic_start` (B, steps, ...): the noise that the student's samples start from, and that its further steps add. In a step
        of the student's `critic_u` (B,) and `critic_noise`, levels and noise of the comparison; the critic's own are the stream's.
        """
        if turn == "before":
            return batch
        positions, shape = batch["position"].numpy(), tuple(batch["image"].shape[1:])
        u = float(rng.uniform(seed, "critic steps", [images])[0])
        steps = 1 + int(u * (1 + len(self.levels)))
        batch = batch | {"critic_start": rng.normal(seed, "critic start", positions, (steps, *shape))}
        if turn == "student":
            apart = rng.alike(rng.key(seed, "critic comparison"), seed)
            compared = drawn(apart, positions, batch_size, shape)
            batch |= {"critic_u": compared["u"], "critic_noise": compared["noise"]}
        return batch

    def sample(self, student: Denoiser, batch: dict[str, Tensor]) -> Tensor:
        """The student's samples of this batch's conditions, with the gradient of their last step."""
        noise, conditioning = batch["critic_start"].unbind(1), self._conditioning(batch)
        assert self.sigma_max is not None
        sigmas = (self.sigma_max, *self.levels)[: len(noise)]
        G = torch.zeros_like(noise[0])
        for i, (sigma, eps) in enumerate(zip(sigmas, noise, strict=True)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and i == len(noise) - 1):
                level = torch.full((len(eps),), sigma, device=eps.device)
                x = self._laid_out(G + sigma * eps)
                G = student(x, level, of_batch(batch), **conditioning)
        return G if self.limits is None else G.clamp(*self.limits)

    def denoise(self, student: Denoiser, batch: dict[str, Tensor]) -> StepOutputs:
        """The critic's step: its denoising loss on the student's samples."""
        with torch.no_grad():
            G = self.sample(student, batch)
        self._without_dropout()
        assert self.own_noise is not None
        sigma = self.own_noise.icdf(batch["u"]).to(G.dtype)
        conditioning = self._conditioning(batch)
        loss = denoising_loss(self.denoiser, G, sigma, batch["noise"], of_batch(batch), **conditioning)
        log_snr, measured = sigma_to_log_snr(sigma, student.sigma_data), loss.detach()
        return {
            "loss": loss.mean(),
            "per_sample_loss": measured,
            "log_snr": log_snr,
            "position": batch["position"],
            "critic": {"log_snr": log_snr, "loss": measured},
        }

    def match(self, student: Denoiser, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """In the student's step: what its loss gains, and (B,) of what was measured, at the levels `log_snr`."""
        assert self._teacher is not None
        assert self.noise is not None
        self._without_dropout()
        G = self.sample(student, batch)
        sigma = self.noise.icdf(batch["critic_u"]).to(G.dtype)
        given, conditioning = of_batch(batch), self._conditioning(batch)
        with pending():  # the graph of G
            result = matching_loss(
                G,
                sigma,
                batch["critic_noise"],
                teacher_mean(self._teacher.value, given, batch.get("guidance"), augment=batch.get("augment")),
                lambda x, sigma: self.denoiser(x, sigma, given, **conditioning),
                loss=self.loss,
                alpha=self.alpha,
            )
        residual = result.residual.flatten(1).norm(dim=1)
        seen = {"log_snr": sigma_to_log_snr(sigma, student.sigma_data), "residual": residual}
        loss = self.weight * result.loss.mean()
        if self._reward is not None:
            rewards = self._rewarded(self._reward.value, G, batch.get("label"))
            loss, seen["reward"] = loss - self.reward_weight * rewards.mean(), rewards.detach()
        return loss, seen

    @staticmethod
    def _rewarded(reward: Reward, G: Tensor, label: Tensor | None) -> Tensor:
        """(B,) with a graph. UserError for a reward that has none, or needs labels that there are not."""
        if label is None and needs_label(reward):
            raise UserError(f"model.critic.reward: {name_of(reward)} needs labels, and the data have none")
        given = torch.zeros(len(G), dtype=torch.int64, device=G.device) if label is None else label
        rewards = reward(G.clamp(-1, 1), given)
        if not rewards.requires_grad:
            raise UserError(
                f"model.critic.reward: {name_of(reward)} has no gradient by the images; AlignmentModule takes any reward"
            )
        return rewards.float()

    def _without_dropout(self) -> None:
        """What is compared with the teacher is a mean, and no sample comes twice. Here, as Lightning warns of it before a step."""
        if self.denoiser.training:
            self.denoiser.eval()

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.memory_format) if x.ndim == 4 else x

    def _conditioning(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        return {name: batch[name] for name in ("augment", "guidance") if name in batch}


def _refuse_rising(levels: Sequence[float], sigma_max: float) -> None:
    if any(not low < high for high, low in zip((sigma_max, *levels), (*levels, 0.0), strict=True)):
        raise ValueError(f"Critic: levels must decrease from sigma_max {sigma_max:g} to above 0, got {list(levels)}")
