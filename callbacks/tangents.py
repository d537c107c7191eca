"""The tangents that a consistency model trains on: their size in the run's tables, and a word when one jumps."""

import math
from typing import ClassVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ..artifacts import events
from ..foundation.errors import UserError
from ..foundation.processes import from_all
from ..modules.base import CountedModule, StepOutputs, is_of_critic
from ..modules.lightning_internals import State
from ..noise.moments import bin_index
from .base import StepCallback

LOW, HIGH, BINS = -12.0, 12.0, 24  # of log-SNR: within one of them tangents are of one size


class Tangents(StepCallback[CountedModule]):
    """Log the tangents of each window of `trainer.log_every_n_steps`, and warn of spikes with their step and noise level.

    Logs train/tangent_norm and train/dF_dt, means over the window's samples, train/tangent_norm_max, and train/warmup, the share of
    the tangent that the network's own derivative has. A spike is a tangent that is `factor` times as large as is usual at its noise
    level: a running geometric mean in bins of log-SNR over the steps before. Spikes come before samples turn to noise, and
    normalised tangents hide them from the loss. The device is read once for each window.

    Args:
        factor: from which on a tangent is a spike, > 1.
        memory: steps that the running mean remembers, >= 1; as many pass in a bin before it is trusted.
    """

    ALONE: ClassVar[str] = "log train/tangent_norm"

    def __init__(self, factor: float = 20.0, memory: int = 100):
        if not factor > 1 or memory < 1:
            raise ValueError(f"Tangents: need factor > 1 and memory >= 1, got {factor}, {memory}")
        self.factor, self.memory = factor, memory
        self.usual = torch.zeros(2, BINS, dtype=torch.float64)  # decayed visits, and ln |g| times visits
        self.visits = torch.zeros(BINS, dtype=torch.int64)
        self.spikes = 0  # windows with one
        self._window = _empty(torch.device("cpu"))[None]  # of each process
        self._warmup = torch.full((1,), math.nan, dtype=torch.float64)  # at the last step that has one

    def on_run_start(self, trainer: Trainer, module: CountedModule) -> None:
        self.usual, self.visits = self.usual.to(module.device), self.visits.to(module.device)
        # The windows of as many processes as there were; with another number, the same total.
        mine = self._window[trainer.global_rank :: trainer.world_size].to(module.device)
        self._mine = _merged(mine) if len(mine) else _empty(module.device)
        self._warmup = self._warmup.to(module.device)

    @torch.no_grad()
    def on_micro_batch_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        if is_of_critic(outputs):
            return
        if "details" not in outputs:
            raise UserError("Tangents: this model's training measures none; leave the callback out")
        self._warmup = outputs["details"]["warmup"][:1].double()
        self._take_in(outputs["log_snr"], outputs["details"], self.finished_steps + 1)

    @torch.no_grad()
    def on_step_end(self, trainer: Trainer, module: CountedModule, outputs: StepOutputs) -> None:
        if not self.is_window_end(trainer):
            return
        window = torch.cat([_merged(from_all(self._mine[None])), self._warmup])
        count, norm, dF_dt, largest, excess, step, log_snr, size, share = window.tolist()
        self._mine = _empty(module.device)
        if not count:  # every step of it moved a critic
            return
        values = {
            "train/tangent_norm": norm / count,
            "train/tangent_norm_max": largest,
            "train/dF_dt": dF_dt / count,
            "train/warmup": share,
        }
        self.log_row(trainer, module, values)
        if excess > math.log(self.factor):
            self.spikes += 1
            if trainer.is_global_zero:
                what = (
                    f"step {int(step):,}: a tangent of norm {size:.3g} at log-SNR {log_snr:.2f} "
                    f"(t = {math.atan(math.exp(-log_snr / 2)):.3f}), {math.exp(excess):.0f} times what is usual there"
                )
                print(what, flush=True)
                events.note(trainer.default_root_dir, module.images_seen, what)

    def _take_in(self, log_snr: Tensor, details: dict[str, Tensor], step: int) -> None:
        norm, dF_dt = details["tangent_norm"].double(), details["dF_dt"].double()
        size = norm.clamp(min=1e-30).log()
        index = bin_index(log_snr, BINS, LOW, HIGH)
        trusted = self.visits[index] >= self.memory
        excess = torch.where(trusted, size - self.usual[1, index] / self.usual[0, index].clamp(min=1e-30), -math.inf)
        seen = torch.stack([excess, torch.full_like(norm, step), log_snr.double(), norm], 1)
        sums = torch.stack([torch.full_like(norm, 1.0), norm, dF_dt]).sum(1)
        now = torch.cat([sums, norm.max()[None], _row(seen, excess.argmax())])
        self._mine = _merged(torch.stack([self._mine, now]))

        member = torch.nn.functional.one_hot(index, BINS).double()
        finite = size.isfinite().double()
        step_sums = torch.stack([finite, torch.where(finite > 0, size, 0.0)]) @ member
        step_sums = from_all(step_sums[None]).sum(0)  # one usual size for all processes, and for any number of them
        visited = step_sums[0] > 0
        mean = step_sums[1] / step_sums[0].clamp(min=1)
        taken = torch.stack([torch.ones_like(mean), mean])
        keep = 1 - 1 / self.memory
        self.usual = torch.where(visited, keep * self.usual + taken, self.usual)
        self.visits += visited

    def state_dict(self) -> State:
        return {
            "usual": self.usual.cpu(),
            "visits": self.visits.cpu(),
            "spikes": self.spikes,
            "window": from_all(self._mine[None]).cpu(),
            "warmup": float(self._warmup),
        }

    def load_state_dict(self, state_dict: State) -> None:
        self.usual, self.visits, self.spikes = state_dict["usual"], state_dict["visits"], state_dict["spikes"]
        self._window = state_dict["window"]
        self._warmup = torch.full((1,), state_dict.get("warmup", math.nan), dtype=torch.float64)


def _row(rows: Tensor, number: Tensor) -> Tensor:
    """One row by its number (); `rows[number]` would wait for the device, to have the number on the host."""
    return rows.index_select(0, number[None])[0]


def _empty(device: torch.device) -> Tensor:
    """A window: samples, sums of |g| and |dF/dt|, largest |g|; of the tangent furthest above its usual size, the logarithm of their
    ratio, step, log-SNR and |g|."""
    window = torch.zeros(8, dtype=torch.float64, device=device)
    window[4] = -math.inf
    return window


def _merged(windows: Tensor) -> Tensor:
    """(n, 8) -> (8,); n > 0."""
    return torch.cat([windows[:, :3].sum(0), windows[:, 3].max()[None], _row(windows[:, 4:], windows[:, 4].argmax())])
