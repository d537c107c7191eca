"""Noticing a loss that is no longer a number, before it costs a run."""

from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, distributed

from ..foundation.errors import UserError
from ..modules.base import CountedModule, StepOutputs
from ..modules.lightning_internals import State
from ..modules.sharding import is_sharded, local_tensor
from .base import StepCallback

# step, outputs, whether the loss was finite, and on a GPU the event after which that has arrived on the host
_Seen = tuple[int, StepOutputs, Tensor, torch.cuda.Event | None]


class FiniteGuard(StepCallback[CountedModule]):
    """Stop, or skip the step, when the loss is not finite; say at which step, noise level and image positions.

    "raise" looks at each step's loss when the next one has been launched, so that a GPU is never waited for; the run ends before
    anything non-finite is saved. "skip" looks before the optimiser steps, leaves weights and optimiser state as they were, and
    counts; it waits for the device at every step.

    Args:
        policy: "raise" or "skip".
    """

    def __init__(self, policy: Literal["raise", "skip"] = "raise"):
        self.policy = policy
        self.skipped = 0
        self._pending: _Seen | None = None
        self._window_is_finite: Tensor | None = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.policy == "skip":
            finite = loss.detach().isfinite()
            self._window_is_finite = finite if self._window_is_finite is None else self._window_is_finite & finite

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._window_is_finite is None:
            return
        finite = trainer.strategy.reduce_boolean_decision(bool(self._window_is_finite), all=True)
        self._window_is_finite = None
        if not finite:
            self.skipped += 1
            optimizer.zero_grad(set_to_none=True)  # an optimiser passes over parameters without gradients

    def on_micro_batch_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        step = self.finished_steps + 1  # the one that this micro-batch belongs to
        if self.policy == "skip":
            if not bool(outputs["loss"].isfinite()):
                skipped = self.skipped + (trainer.global_step < step)  # it is counted when it would have been taken
                print(f"{_describe(step, outputs)}; the step is skipped ({skipped} so far)", flush=True)
            return
        finite = outputs["loss"].detach().isfinite()
        if trainer.world_size > 1:  # all stop together, or the others would wait for the one that stopped
            everywhere = finite.int()
            distributed.all_reduce(everywhere, distributed.ReduceOp.MIN)
            finite = everywhere.bool()
        if finite.is_cuda:
            self._check(self._pending)
            arrived = finite.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending = (step, outputs, arrived, event)
        else:
            self._check((step, outputs, finite, None))

    def _check(self, seen: _Seen | None) -> None:
        if seen is None:
            return
        step, outputs, finite, event = seen
        if event is not None:
            event.synchronize()  # a copy that does not wait for the device may not have been made yet
        if not bool(finite):
            raise UserError(
                f"{_describe(step, outputs)}; lower the learning rate, clip gradients, or set FiniteGuard's policy to skip"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        self._check(self._pending)
        # A finite loss can have a gradient that is not: the next loss would show it, too late for this checkpoint.
        weights = pl_module.named_parameters()
        bad = next((name for name, weight in weights if not bool(local_tensor(weight).isfinite().all())), None)
        if any(map(is_sharded, pl_module.modules())):  # each process looked at its own rows; all stop together
            good = trainer.strategy.reduce_boolean_decision(bad is None, all=True)
            bad = bad if good else bad or "a weight on another process"
        if bad is not None:
            raise UserError(
                f"step {trainer.global_step}: {bad} is no longer finite although the loss was; "
                "lower the learning rate or clip gradients"
            )

    def on_run_end(self, trainer: Trainer, module: CountedModule) -> None:
        self._check(self._pending)

    def state_dict(self) -> State:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: State) -> None:
        self.skipped = state_dict["skipped"]


def _describe(step: int, outputs: StepOutputs) -> str:
    bad = ~outputs["per_sample_loss"].isfinite()
    if bool(outputs["loss"].isfinite()):
        return f"step {step}: the loss of another process is not finite"
    if not bool(bad.any()):
        return f"step {step}: the weighted loss is not finite although every sample's loss is"
    levels = ", ".join(f"{value:.2f}" for value in outputs["log_snr"][bad][:4].tolist())
    places = ", ".join(str(value) for value in outputs["position"][bad][:4].tolist())
    return f"step {step}: {int(bad.sum())} losses are not finite, at log-SNR {levels}, stream positions {places}"
