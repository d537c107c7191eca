"""Find a time grid for a model in a run folder, and keep what was expensive about it.

    RUN/schedule.json       the newest grid (see `schedule_file`)
    RUN/schedules/          each grid so far, METHOD_SOLVER_STEPS.json, and what `art` measured, monitor_SOLVER.json, from which
                            the grids of any number of steps follow at once

What was found on other weights or by another protocol is found again; a measurement that was interrupted goes on.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ..artifacts import read_record
from ..artifacts.schedule import Schedule, load_schedule, save_schedule
from ..denoiser import Denoiser
from ..foundation import rng
from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from ..samplers import ode_solver
from ..samplers.generate import evaluating
from ..samplers.guidance import guided
from ..schedules.art import Estimate, estimate
from ..schedules.search import METHODS

MEASURED = ("art", "art_solver")
TRAINED = ("art_rl", "end_point")  # by a run of their own
TRAJECTORIES = 256
NODES = 64  # noise levels of a measurement
PART = 64  # trajectories between two saves of a measurement


def find(
    path: Path,
    denoiser: Denoiser,
    method: str,
    steps: int,
    solver: str = "heun",
    *,
    trajectories: int | None = None,
    seed: int = 0,
    guidance: float = 1.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    batch: int = 64,
    progress: bool = False,
) -> Schedule:
    """The grid of `steps` steps by this method, kept in the run folder.

    Args:
        path: run folder or model file.
        denoiser: its model.
        method: name in `schedules.search.METHODS` or in `TRAINED`.
        solver: name in `samplers.SOLVERS`; what asks for one is made for it.
        trajectories: to learn from, each from its own noise; labels are cycled through. Default 256; not for `TRAINED`.
        seed: of the noise, which no sample has.
        guidance: scale that the model is used with; 1 is none.
        sigma_min, sigma_max, batch, progress: see `schedules.search`.
    """
    home, record = path if path.is_dir() else path.parent, read_record(path)
    protocol: dict[str, Any] = {"seed": seed, "guidance": guidance, "sigma_min": sigma_min, "sigma_max": sigma_max}
    if method not in TRAINED:
        protocol["trajectories"] = trajectories or TRAJECTORIES
    elif trajectories is not None:
        raise UserError(f"--trajectories: {method} draws them as it learns; leave it out")
    kept = home / "schedules" / f"{method}_{solver}_{steps}.json"
    wanted = Schedule([], method, solver, protocol, record["sha256"])
    found = _kept(kept, wanted, steps)
    if found is None:
        problem = _Problem(denoiser, record, protocol)
        with evaluating(denoiser):
            if method in TRAINED:
                found = _trained(path, denoiser, wanted, steps)
            else:
                sigmas, costs = _found(home, problem, method, steps, solver, batch, progress)
                found = replace(wanted, sigmas=sigmas.tolist(), costs=costs)
        save_schedule(kept, found)
    save_schedule(home, found)
    return found


def _found(
    home: Path, problem: "_Problem", method: str, steps: int, solver: str, batch: int, progress: bool
) -> tuple[Float64[Tensor, " nodes"], dict[str, float]]:
    """The grid, and its costs."""
    if method in MEASURED:
        own = solver if method == "art_solver" else "euler"
        path = home / "schedules" / f"monitor_{own}.json"
        measured, seconds, calls = _measured(path, problem, own, batch, progress)
        return measured.grid(steps), {"seconds": round(seconds, 3), "calls": float(calls)}
    start, n = time.perf_counter(), problem.protocol["trajectories"]
    options = {"tangent": {"sigma_data": problem.denoiser.sigma_data}, "ays": {"seed": problem.protocol["seed"]}}
    sigmas = METHODS[method](
        problem.model,
        problem.noise(0, n),
        steps,
        problem.protocol["sigma_min"],
        problem.protocol["sigma_max"],
        solver=solver,
        labels=problem.labels(0, n),
        batch=batch,
        progress=progress,
        **options.get(method, {}),
    )
    return sigmas, {"seconds": round(time.perf_counter() - start, 3), "calls": float(problem.calls)}


class _Problem:
    """The model as the methods take it, with its evaluations counted, and the noise and labels to learn from."""

    def __init__(self, denoiser: Denoiser, record: dict[str, Any], protocol: dict[str, Any]):
        self.denoiser, self.record, self.protocol = denoiser, record, protocol
        self.guidance: float = protocol["guidance"]
        self.device = next(denoiser.parameters()).device
        self.calls = 0

    def model(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += len(x) * (1 if self.guidance == 1 else 2)
        return guided(self.denoiser, label, scale=self.guidance)(x, sigma)

    def noise(self, start: int, stop: int) -> Tensor:
        shape = self.record["shape"]
        return rng.normal(self.protocol["seed"], "schedule", range(start, stop), shape).to(self.device)

    def labels(self, start: int, stop: int) -> Tensor | None:
        classes = self.record["num_classes"]
        return (torch.arange(start, stop) % classes).to(self.device) if classes else None


def _measured(path: Path, problem: _Problem, solver: str, batch: int, progress: bool) -> tuple[Estimate, float, int]:
    """The estimate, and the seconds and evaluations that it took, some of them perhaps in another process."""
    ode_solver(solver)  # refuses what has no local error
    protocol, total = problem.protocol, problem.protocol["trajectories"]
    key = {name: protocol[name] for name in ("seed", "sigma_min", "sigma_max", "guidance")}
    key |= {"model": problem.record["sha256"], "solver": solver, "nodes": NODES}
    found, seconds, calls = _continued(path, key, total)
    done = 0 if found is None else found.trajectories
    bar = tqdm(total=total, initial=done, desc=f"monitor of {solver}", leave=False, disable=None if progress else True)
    with bar:
        while done < total:
            stop, began = min(done + PART, total), time.perf_counter()
            problem.calls = 0
            part = estimate(
                problem.model,
                problem.noise(done, stop),
                protocol["sigma_min"],
                protocol["sigma_max"],
                solver=solver,
                nodes=NODES,
                labels=problem.labels(done, stop),
                batch=batch,
            )
            found = part if found is None else found.merged(part)
            seconds, calls = seconds + time.perf_counter() - began, calls + problem.calls
            bar.update(stop - done)
            done = stop
            _keep(path, key, found, seconds, calls)
    assert found is not None
    return found, seconds, calls


def _keep(path: Path, key: dict[str, Any], found: Estimate, seconds: float, calls: int) -> None:
    record = asdict(found) | {"sigmas": found.sigmas.tolist(), "loss": found.loss.tolist()}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"key": key, "seconds": seconds, "calls": calls, "estimate": record}) + "\n")


def _continued(path: Path, key: dict[str, Any], total: int) -> tuple[Estimate | None, float, int]:
    """What an earlier call measured, if it was the same thing and not more of it."""
    try:
        record = json.loads(path.read_text())
        found = read_estimate(path)
        if record["key"] == key and found.trajectories <= total:
            return found, record["seconds"], record["calls"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or nothing that could be continued: measured again
    return None, 0.0, 0


def read_estimate(path: Path) -> Estimate:
    """The measurement in a monitor_SOLVER.json."""
    fields = json.loads(path.read_text())["estimate"]
    tensors = {name: torch.tensor(fields[name], dtype=torch.float64) for name in ("sigmas", "loss")}
    return Estimate(**(fields | tensors))


def _kept(path: Path, wanted: Schedule, steps: int) -> Schedule | None:
    """The grid that an earlier call found, if it is of this kind."""
    try:
        found = load_schedule(path)
    except UserError:
        return None  # not there, or damaged: found again
    same = all(getattr(found, name) == getattr(wanted, name) for name in ("method", "solver", "model"))
    same &= wanted.protocol.items() <= found.protocol.items()
    return found if same and found.steps == steps else None


def _trained(path: Path, denoiser: Denoiser, wanted: Schedule, steps: int) -> Schedule:
    """By a run of its own beside the others' files."""
    if steps == 1:
        return replace(wanted, sigmas=[wanted.protocol["sigma_max"], 0.0])
    from .learn_schedule import learn_schedule  # Lightning: 4 s

    accelerator = "gpu" if next(denoiser.parameters()).is_cuda else "cpu"
    found = learn_schedule(path, wanted.method, steps, wanted.solver, accelerator=accelerator, **wanted.protocol)
    return replace(found, protocol=found.protocol | wanted.protocol)
