"""Time grids as files: `schedule.json`, the noise levels with how they were found and on which model."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from ..foundation.atomic import replacing
from ..foundation.binding import Mismatch, bind
from ..foundation.errors import UserError
from ..samplers import check_sigmas

FORMAT = 1  # raised when a program that knows the old one could not read the new one
NAME = "schedule.json"


@dataclass(frozen=True)
class Schedule:
    """A time grid and where it comes from.

    Args:
        sigmas: noise levels from the largest to 0, strictly decreasing; one more than there are steps.
        method: how they were found, see `schedules.search.METHODS` and `scheduling.TRAINED`.
        solver: which they were found for, by name.
        protocol: what else they depend on: seed, trajectories, sigma_min, sigma_max, guidance.
        model: SHA-256 of the weights of the model that they were learned on.
        costs: "seconds" and "calls", the evaluations of the network by one sample that learning took.
    """

    sigmas: list[float]
    method: str
    solver: str
    protocol: dict[str, Any]
    model: str
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def grid(self) -> Float64[Tensor, " nodes"]:
        """The noise levels as samplers take them."""
        return torch.tensor(self.sigmas, dtype=torch.float64)


_FIELDS = {
    "sigmas": list[float],
    "method": str,
    "solver": str,
    "protocol": dict[str, Any],
    "model": str,
    "costs": dict[str, float],
}


def save_schedule(path: Path | str, schedule: Schedule) -> Path:
    """Write it, whole or not at all; a folder gets a `schedule.json`. Returns the file's path.

    Raises:
        ValueError: noise levels that are no grid.
        UserError: the file cannot be written.
    """
    path = _file(Path(path))
    check_sigmas(schedule.grid())
    record = {"format": FORMAT, "steps": schedule.steps, **asdict(schedule)}
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def load_schedule(path: Path | str) -> Schedule:
    """The schedule in this file, or in this folder's `schedule.json`.

    Raises:
        UserError: no such file, or not a schedule that this version reads.
    """
    path = _file(Path(path))
    if not path.is_file():
        raise UserError(f"{path}: no such file; lightning-diff schedule RUN makes one")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] > FORMAT:
            raise UserError(f"{path}: is of format {record['format']}; this version reads up to {FORMAT}: update it")
        found = Schedule(**{name: bind(record[name], hint, name) for name, hint in _FIELDS.items()})
        check_sigmas(found.grid())
        if not all(map(math.isfinite, found.costs.values())):
            raise ValueError("costs: every number must be finite")
        return found
    except Mismatch as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is no schedule ({type(error).__name__}: {error})") from error


def _file(path: Path) -> Path:
    return path if path.suffix == ".json" else path / NAME
