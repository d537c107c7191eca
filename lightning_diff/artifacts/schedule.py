"""Time grids as files: `schedule.json`, the noise levels with how they were found and on which model."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from ..foundation.errors import UserError
from ..samplers import check_sigmas
from . import record

FORMAT = 1  # raised when a program that knows the old one could not read the new one
NAME = "schedule.json"


@dataclass(frozen=True)
class Schedule:
    """A time grid and where it comes from.

    Args:
        sigmas: noise levels from the largest to 0, strictly decreasing; one more than there are steps.
        method: how they were found, see `schedules.search.METHODS` and `runs.find_schedule.TRAINED`.
        solver: which they were found for, by name.
        protocol: what else they depend on: seed, trajectories, sigma_min, sigma_max, guidance.
        model: SHA-256 of the weights of the model that they were learned on.
        costs: "seconds" and "calls", the evaluations of the network by one sample that learning took.
    """

    sigmas: list[float]
    method: str
    solver: str
    protocol: record.Protocol
    model: str
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def grid(self) -> Float64[Tensor, " nodes"]:
        """The noise levels as samplers take them."""
        return torch.tensor(self.sigmas, dtype=torch.float64)


def save_schedule(path: Path | str, schedule: Schedule) -> Path:
    """Write it, whole or not at all; a folder gets a `schedule.json`. Returns the file's path.

    Raises:
        ValueError: noise levels that are no grid.
        UserError: the file cannot be written.
    """
    path = _file(Path(path))
    check_sigmas(schedule.grid())
    record.write(path, {"steps": schedule.steps, **asdict(schedule)}, FORMAT)
    return path


def load_schedule(path: Path | str) -> Schedule:
    """The schedule in this file, or in this folder's `schedule.json`.

    Raises:
        UserError: no such file, or not a schedule that this version reads.
    """
    path = _file(Path(path))
    if not path.is_file():
        raise UserError(f"{path}: no such file; lightning-diff schedule RUN makes one")
    found = record.read(path, Schedule, FORMAT, "schedule")
    try:
        check_sigmas(found.grid())
        if not all(map(math.isfinite, found.costs.values())):
            raise ValueError("costs: every number must be finite")
    except ValueError as error:
        raise UserError(f"{path}: is no schedule ({error})") from error
    return found


def _file(path: Path) -> Path:
    return path if path.suffix == ".json" else path / NAME
