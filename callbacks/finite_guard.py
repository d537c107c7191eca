"""Noticing a loss or a gradient that is no longer a number, before it costs a run."""

from typing import ClassVar, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, distributed

from ..artifacts import events
from ..foundation.devices import Arriving, is_host
from ..foundation.errors import UserError
from ..modules import lightning_internals as internals
from ..modules.base import CountedModule, StepOutputs
from ..modules.lightning_internals import State
from ..modules.sharding import is_sharded, local_tensor
from .base import StepCallback

ADVICE = "lower the learning rate, clip gradients, or set FiniteGuard's policy to skip"


class _Seen(NamedTuple):
    """What is known of a step."""

    step: int
    images: int  # by its end
    folder: str  # the Trainer's
    outputs: list[StepOutputs]  # of its micro-batches, on this process
    verdict: Arriving  # (4,) float32: whether losses were finite, gradients, the step was taken; the loss's scale


class FiniteGuard(StepCallback[CountedModule]):
    """Hold back a step whose loss or gradient is not finite; stop, or skip it, and say step, noise levels and image positions.

    Losses and gradients are looked at on the device. "raise" reads the verdict on a step when the next one has been launched, so
    that a GPU is never waited for; nothing of such a step is saved. "skip" leaves weights and optimiser state as they were, and
    counts. The images count as seen; averages go on over the weights, which did not change. Optimisers with `fused: true` skip on
    the device; with others "skip" waits for a GPU at every step, since their state is partly the host's.

    Under fp16 a gradient that is not finite belongs to the search for the loss's scale: the step is skipped by Lightning's scaler,
    and counted as an overflow; it is a fault when the scale has fallen below 1.

    Args:
        policy: "raise" or "skip".
    """

    ALONE: ClassVar[str] = "hold back steps"

    def __init__(self, policy: Literal["raise", "skip"] = "raise"):
        self.policy = policy
        self.skipped = 0  # steps whose loss, or gradient, was not finite
        self.overflows = 0  # steps with a finite loss that fp16's scaler passed over
        self.counted: Tensor | None = (
            None  # () bool on the device, whether the step just ended counts in averages of the loss
        )
        self._losses_are_finite: Tensor | None = None
        self._outputs: list[StepOutputs] = []
        self._verdict: Tensor | None = None
        self._scale: Tensor | None = None
        self._held_by: torch.optim.Optimizer | None = None
        self._pending: _Seen | None = None

    # --- before the step ---

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        finite, before = loss.detach().isfinite().all(), self._losses_are_finite
        self._losses_are_finite = finite if before is None else before & finite

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if internals.grad_scaler(trainer) is None or self._losses_are_finite is None:
            return
        # The scaler looks at gradients alone: a loss that is not finite has to show in them.
        gradient = next((g for g in map(_gradient, pl_module.parameters()) if g is not None), None)
        if gradient is not None:
            finite = _everywhere(self._losses_are_finite, trainer)
            gradient.copy_(torch.where(finite, gradient, torch.nan))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        losses = self._losses_are_finite
        if losses is None:  # nothing went backward
            return
        self._losses_are_finite = None
        if (scaler := internals.grad_scaler(trainer)) is not None:
            self._scale = internals.loss_scale(scaler, losses.device)
            losses = _everywhere(losses, trainer)
            self._verdict, self.counted = torch.stack([losses, losses]), losses
            return
        gradients = [g for group in optimizer.param_groups for p in group["params"] if (g := _gradient(p)) is not None]
        self._verdict = _everywhere(torch.stack([losses, _are_finite(gradients, losses.device)]), trainer)
        self.counted = self._verdict.all()
        self._hold_back(optimizer, self.counted)

    def _hold_back(self, optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
        """Let the optimiser pass over this step if it is not finite."""
        # At the first step some fused kernels would leave state unwritten.
        is_fused = getattr(optimizer, "_step_supports_amp_scaling", False) and bool(optimizer.state)
        if not is_host(finite.device) and is_fused:
            optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
            self._held_by = optimizer
        elif (is_host(finite.device) or self.policy == "skip") and not bool(finite):
            optimizer.zero_grad(set_to_none=True)  # an optimiser passes over parameters without gradients

    # --- after it ---

    def on_micro_batch_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        self._outputs.append(outputs)

    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        if self._held_by is not None:
            del self._held_by.grad_scale, self._held_by.found_inf  # type: ignore[attr-defined]
            self._held_by = None
        window, self._outputs = self._outputs, []
        if self._verdict is None:
            return
        verdict = torch.cat([self._verdict.float(), torch.ones(2, device=self._verdict.device)])
        if (scaler := internals.grad_scaler(trainer)) is not None and self._scale is not None:
            scale = internals.loss_scale(scaler, verdict.device)
            verdict[2:] = torch.stack([(scale >= self._scale).float(), scale])
        self._verdict = self._scale = None
        self._settle()
        self._pending = _Seen(
            self.finished_steps, module.images_seen, trainer.default_root_dir, window, Arriving(verdict)
        )
        if self._pending.verdict.is_here:
            self._settle()

    def _settle(self) -> None:
        """Act on the step whose verdict is on its way to the host."""
        seen, self._pending = self._pending, None
        if seen is None:
            return
        losses, gradients, taken, scale = seen.verdict.read().tolist()
        if losses and gradients:
            self.overflows += not taken
            if not taken and scale < 1:
                raise UserError(f"step {seen.step}: gradients are not finite in fp16 at a loss scale of {scale:g}; {ADVICE}, "
                    "or train in bf16-mixed")  # fmt: skip
            return
        what = _describe(seen.step, seen.outputs) if not losses else f"step {seen.step}: {_gradients(seen.outputs)}"
        if self.policy == "raise":
            raise UserError(f"{what}; {ADVICE}")
        self.skipped += 1
        print(f"{what}; the step is skipped ({self.skipped} so far)", flush=True)
        events.note(seen.folder, seen.images, f"{what}; the step is skipped")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        self._settle()
        # A finite gradient can make weights that are not: the next loss would show it, too late for this checkpoint.
        weights = {name: local_tensor(weight).isfinite().all() for name, weight in pl_module.named_parameters()}
        are_finite = torch.stack([*weights.values()]).tolist() if weights else []
        bad = next((name for name, is_finite in zip(weights, are_finite, strict=True) if not is_finite), None)
        if any(map(is_sharded, pl_module.modules())):  # each process looked at its own rows; all stop together
            good = trainer.strategy.reduce_boolean_decision(bad is None, all=True)
            bad = bad if good else bad or "a weight on another process"
        if bad is not None:
            raise UserError(
                f"step {trainer.global_step}: {bad} is no longer finite although the loss was; "
                "lower the learning rate or clip gradients"
            )

    def on_run_end(self, trainer: Trainer, module: CountedModule) -> None:
        self._settle()

    def state_dict(self) -> State:
        self._settle()
        return {"skipped": self.skipped, "overflows": self.overflows}

    def load_state_dict(self, state_dict: State) -> None:
        self.skipped, self.overflows = state_dict["skipped"], state_dict.get("overflows", 0)


def _gradient(parameter: Tensor) -> Tensor | None:
    """What this process holds of a parameter's gradient."""
    gradient = parameter.grad
    if gradient is None:
        return None
    gradient = local_tensor(gradient)
    return gradient._values() if gradient.is_sparse else gradient


def _are_finite(gradients: list[Tensor], device: torch.device) -> Tensor:
    """() bool on the device. By the largest entry: a sum of squares overflows before its terms do."""
    gradients = [gradient for gradient in gradients if gradient.numel()]
    if not gradients:
        return torch.ones((), dtype=torch.bool, device=device)
    largest = list(torch._foreach_norm(gradients, float("inf")))
    if len({each.dtype for each in largest}) > 1:
        largest = [each.double() for each in largest]
    return torch.stack(largest).isfinite().all()


def _everywhere(finite: Tensor, trainer: Trainer) -> Tensor:
    """Whether on all processes: all stop, or skip, together, or the others would wait for the one that did."""
    if trainer.world_size == 1:
        return finite
    everywhere = finite.int()
    distributed.all_reduce(everywhere, distributed.ReduceOp.MIN)
    return everywhere.bool()


def _describe(step: int, outputs: list[StepOutputs]) -> str:
    """Of the step's first micro-batch that has a bad loss: how many, at which noise levels and positions."""
    worst = next((each for each in outputs if not bool(each["loss"].isfinite())), None)
    if worst is None:
        return f"step {step}: the loss of another process is not finite"
    bad = ~worst["per_sample_loss"].isfinite()
    if not bool(bad.any()):
        return f"step {step}: the weighted loss is not finite although every sample's loss is"
    return f"step {step}: {int(bad.sum())} losses are not finite, at {_place(worst, bad)}"


def _gradients(outputs: list[StepOutputs]) -> str:
    """Of a step with finite losses: the samples with the largest, which are the likeliest reason."""
    last = max(outputs, key=lambda each: float(each["per_sample_loss"].max()))
    highest = last["per_sample_loss"] == last["per_sample_loss"].max()
    return f"the gradient is not finite although every loss is; the highest loss is at {_place(last, highest)}"


def _place(outputs: StepOutputs, rows: Tensor) -> str:
    levels = ", ".join(f"{value:.2f}" for value in outputs["log_snr"][rows][:4].tolist())
    places = ", ".join(str(value) for value in outputs["position"][rows][:4].tolist())
    return f"log-SNR {levels}, stream positions {places}"
