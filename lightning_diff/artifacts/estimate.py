"""What steps lose along a model's trajectories, in monitor_SOLVER.json: from it the grids of any number of steps follow at once.

The file is written again and again while it is being measured, so that a measurement that was interrupted resumes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..foundation.atomic import replacing
from ..schedules.art import Estimate


@dataclass(frozen=True)
class Measurement:
    """An estimate, and what it cost, some of it perhaps in another process.

    Args:
        estimate: from the trajectories so far.
        seconds: of measuring.
        calls: evaluations of the network.
    """

    estimate: Estimate
    seconds: float = 0.0
    calls: int = 0


def save_measurement(path: Path, key: Mapping[str, object], measured: Measurement) -> None:
    """Write a measurement, and what it depends on."""
    found = measured.estimate
    fields = asdict(found) | {"sigmas": found.sigmas.tolist(), "loss": found.loss.tolist()}
    record = {"key": key, "seconds": measured.seconds, "calls": measured.calls, "estimate": fields}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record) + "\n")


def resumed_measurement(path: Path, key: Mapping[str, object], total: int) -> Measurement | None:
    """What an earlier call measured, if it was the same thing and not more of it.

    Args:
        path: of the file.
        key: what the measurement depends on.
        total: trajectories that are wanted.
    """
    try:
        record = json.loads(path.read_text())
        found = read_estimate(path)
        if record["key"] == key and found.trajectories <= total:
            return Measurement(found, float(record["seconds"]), int(record["calls"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or nothing that could be resumed: measured again
    return None


def read_estimate(path: Path) -> Estimate:
    """The estimate in a monitor_SOLVER.json."""
    fields = json.loads(path.read_text())["estimate"]
    tensors = {name: torch.tensor(fields[name], dtype=torch.float64) for name in ("sigmas", "loss")}
    return Estimate(**(fields | tensors))
