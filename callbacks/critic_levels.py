"""What a critic knows of the student's samples at each noise level, and how far they are from the teacher's there."""

import csv
from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ..data import Data
from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from ..foundation.processes import from_all
from ..modules.base import StepOutputs
from ..modules.consistency import ConsistencyModule
from ..modules.lightning_internals import State
from ..noise import log_snr_to_sigma
from ..noise.moments import moments
from ..statistics import NoiseLevelStatistics
from .base import StepCallback

NAME = "critic_levels.csv"
SEEN = ("loss", "residual", "reward")
COLUMNS = ("log_snr", "sigma", "critic_samples", "critic_loss", "student_samples", "residual")


class CriticLevels(StepCallback[ConsistencyModule]):
    """Log a critic's loss and the residual that it pulls the student along, and write both per noise level.

    Logs, for each window of `trainer.log_every_n_steps`, the means over its samples: train/critic_loss, the critic's unweighted
    denoising loss on the student's samples; train/critic_residual, the norm |D_psi - D_T| of the difference from the teacher's
    denoiser; and, of a critic with a reward, train/critic_reward. Where residual and loss both grow, the critic has lost the
    student: move it more often. At the end `critic_levels.csv` has both in bins of log-SNR, over the second half of the run.

    The tables are a function of the samples' losses alone, in order of position: equal for any number of processes.

    Args:
        bins, low, high: bins of log-SNR.
    """

    ALONE: ClassVar[str] = "write critic_levels.csv"
    watches = ConsistencyModule

    def __init__(self, bins: int = 30, low: float = -10.0, high: float = 10.0):
        if bins < 2 or not low < high:
            raise ValueError(f"CriticLevels: need bins >= 2 and low < high, got {bins}, {low:g}, {high:g}")
        self.levels = {name: NoiseLevelStatistics(bins, low, high) for name in ("loss", "residual")}
        self._own: dict[str, list[Tensor]] = {name: [] for name in SEEN}  # (n, 3) each: position, log_snr, value
        self._window = _empty()  # of all processes, on the host

    def refuse_unfit(self, module: ConsistencyModule, data: Data) -> None:
        if module.critic is None:
            raise UserError("CriticLevels: model.critic is none; give the model one, or leave the callback out")

    def on_micro_batch_end(self, trainer: Trainer, module: ConsistencyModule, outputs: StepOutputs) -> None:
        for name, own in self._own.items():
            if (seen := outputs.get("critic")) is not None and name in seen:
                columns = (outputs["position"], seen["log_snr"], seen[name])
                own.append(torch.stack([column.double() for column in columns], 1))

    def on_step_end(self, trainer: Trainer, module: ConsistencyModule, outputs: StepOutputs) -> None:
        is_half = self.finished_steps == trainer.max_steps // 2
        if not self.is_window_end(trainer) and not is_half:
            return
        self._gather()
        values: dict[str, float] = {}
        for name, window in self._window.items():
            if len(window):
                _, log_snr, value = window[window[:, 0].argsort()].T
                values[f"train/critic_{name}"] = float(value.mean())
                if name in self.levels:
                    self.levels[name].update(log_snr, value)
        self._window = _empty()
        if values:
            self.log_row(trainer, module, values)
        if is_half:
            for each in self.levels.values():
                each.reset()

    def _gather(self) -> None:
        for name, own in self._own.items():
            if own:  # on one process, as on all
                self._window[name] = torch.cat([self._window[name], from_all(torch.cat(own)).cpu()])
                own.clear()

    def on_run_end(self, trainer: Trainer, module: ConsistencyModule) -> None:
        if trainer.is_global_zero:
            self.write(Path(trainer.default_root_dir), module.denoiser.sigma_data)

    def write(self, folder: Path, sigma_data: float) -> None:
        """The table, into `critic_levels.csv` in this folder; bins without samples stay empty."""
        loss, residual = (
            moments(*each.state()) for each in self.levels.values()
        )  # `compute` would wait for the others
        statistics = self.levels["loss"]
        width = (statistics.high - statistics.low) / statistics.bins
        centres = statistics.low + width * (torch.arange(statistics.bins, dtype=torch.float64) + 0.5)
        columns = (centres, log_snr_to_sigma(centres, sigma_data), loss.count, loss.mean, residual.count, residual.mean)
        with replacing(folder / NAME) as path, path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in torch.stack([column.double() for column in columns], 1).tolist():
                writer.writerow("" if value != value else f"{value:.6g}" for value in row)

    def state_dict(self) -> State:
        self._gather()
        return {
            "levels": {name: torch.stack(each.state()) for name, each in self.levels.items()},
            "window": dict(self._window),
        }

    def load_state_dict(self, state_dict: State) -> None:
        for name, each in self.levels.items():
            each.count, each.mean, each.m2 = state_dict["levels"][name].unbind(0)
        self._window = dict(state_dict["window"])


def _empty() -> dict[str, Tensor]:
    return {name: torch.zeros(0, 3, dtype=torch.float64) for name in SEEN}
