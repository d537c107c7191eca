"""Find a time grid for a model in a run folder, and keep what was expensive about it.

    RUN/schedule.json       the newest grid (see `artifacts.schedule`)
    RUN/schedules/          each grid so far, METHOD_SOLVER_STEPS.json, and what `art` measured, monitor_SOLVER.json, from which
                            the grids of any number of steps follow at once

What was found on other weights or by another protocol is found again; a measurement that was interrupted resumes.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from ..artifacts import ModelRecord, read_record
from ..artifacts.estimate import Measurement, resumed_measurement, save_measurement
from ..artifacts.schedule import Schedule, load_schedule, save_schedule
from ..condition import Prompts
from ..denoiser import Denoiser
from ..foundation import garbage, rng
from ..foundation.errors import UserError
from ..foundation.progress import stage
from ..samplers import ODE_SOLVERS, ode_solver
from ..samplers.generate import evaluating
from ..samplers.guidance import guided
from ..schedules.art import estimate
from ..schedules.sampling import SIGMA_MAX
from ..schedules.search import METHODS
from .choices import refuse_unknown
from .sampler_settings import SamplerSettings, level_range
from .trained import Trained

MEASURED = ("art", "art_solver")
TRAINED = ("art_rl", "end_point")  # by a run of their own
TRAJECTORIES = 256
NODES = 64  # noise levels of a measurement
PART = 64  # trajectories between two saves of a measurement


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a grid depends on, beside the model, the method, the solver and the number of steps.

    Args:
        seed: of the noise.
        guidance: scale that the model is used with; 1 is none.
        prompts: hash of the texts that a text-conditional model is called with; None of others.
        sigma_min, sigma_max: of the grid.
        trajectories: to learn from; None for a method that draws them as it learns.
    """

    seed: int
    guidance: float
    prompts: str | None = None
    sigma_min: float
    sigma_max: float
    trajectories: int | None = None

    def record(self) -> dict[str, int | float]:
        """What is kept beside the grid."""
        return {name: value for name, value in vars(self).items() if value is not None}


def find(
    path: Path,
    denoiser: Denoiser,
    method: str,
    steps: int,
    solver: str | None = None,
    *,
    trajectories: int | None = None,
    prompts: Prompts | None = None,
    seed: int = 0,
    guidance: float = 1.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    batch: int = 64,
    progress: bool = False,
) -> Schedule:
    """The grid of `steps` steps by this method, kept in the run folder.

    Args:
        path: run folder or model file.
        denoiser: its model.
        method: name in `schedules.search.METHODS` or in `TRAINED`.
        solver: name in `samplers.ODE_SOLVERS`; what asks for one is made for it; None for the model's (see `own_solver`).
        trajectories: to learn from, each from its own noise; labels are cycled through. Default 256; not for `TRAINED`.
        prompts: of a text-conditional model, cycled through; None for its null condition.
        seed: of the noise, which no sample has.
        guidance: scale that the model is used with; 1 is none.
        sigma_min, sigma_max, batch, progress: see `schedules.search`; None for the ends of the model's grids (see `own_range`).
    """
    if method in TRAINED and trajectories is not None:
        raise UserError(f"--trajectories: {method} draws them as it learns; leave it out")
    home, record = path if path.is_dir() else path.parent, read_record(path)
    solver = own_solver(record) if solver is None else solver
    sigma_min, sigma_max = own_range(record, sigma_min, sigma_max)
    protocol = Protocol(
        seed=seed,
        guidance=guidance,
        prompts=None if prompts is None else hashlib.sha256(json.dumps(prompts.texts).encode()).hexdigest()[:16],
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        trajectories=None if method in TRAINED else trajectories or TRAJECTORIES,
    )
    kept = home / "schedules" / f"{method}_{solver}_{steps}.json"
    wanted = Schedule([], method, solver, protocol.record(), record.identity)
    found = _kept(kept, wanted, steps)
    if found is None:
        garbage.take_up()
        SamplerSettings(guidance=guidance).say_doubt(record)
        problem = _Problem(denoiser, record, protocol, prompts)
        with evaluating(denoiser):
            if method in TRAINED:
                found = _trained(path, denoiser, wanted, protocol, steps, prompts)
            else:
                sigmas, costs = _found(home, problem, method, steps, solver, batch, progress)
                found = replace(wanted, sigmas=sigmas.tolist(), costs=costs)
        save_schedule(kept, found)
    save_schedule(home, found)
    return found


def own_solver(record: ModelRecord) -> str:
    """What a grid is for where nobody says: an imported model's solver, else heun."""
    own: str = record.sampling.get("solver", "heun")
    return own if own in ODE_SOLVERS else "heun"


def own_range(record: ModelRecord, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """As `level_range`, but that a grid is found from a finite level down: from 80 where the model starts from pure noise."""
    low, high = level_range(record, sigma_min, sigma_max)
    return low, SIGMA_MAX if sigma_max is None and math.isinf(high) else high


def refuse_unfit(
    model: Trained,
    method: str,
    solver: str | None,
    *,
    guidance: float,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> None:
    """UserError, naming the option, for what cannot be found for this model: before its weights are read."""
    refuse_unknown("--method", method, [*METHODS, *TRAINED])
    if solver is not None:
        refuse_unknown("--solver", solver, ODE_SOLVERS)
    if model.record.kind == "consistency":
        raise UserError(f"{model.path}: is a consistency model, whose levels evaluate --search finds")
    SamplerSettings(guidance=guidance).refuse_unfit_guidance(model.record)
    low, high = own_range(model.record, sigma_min, sigma_max)
    if not 0 < low < high < math.inf:
        raise UserError(f"--sigma-min, --sigma-max: need 0 < sigma_min < sigma_max < infinity, got {low}, {high}")


def _found(
    home: Path, problem: "_Problem", method: str, steps: int, solver: str, batch: int, progress: bool
) -> tuple[Float64[Tensor, " nodes"], dict[str, float]]:
    """The grid, and its costs."""
    if method in MEASURED:
        own = solver if method == "art_solver" else "euler"
        measured = _measured(home / "schedules" / f"monitor_{own}.json", problem, own, batch, progress)
        costs = {"seconds": round(measured.seconds, 3), "calls": float(measured.calls)}
        return measured.estimate.grid(steps), costs
    start, protocol, n = time.perf_counter(), problem.protocol, problem.trajectories
    options: Mapping[str, Mapping[str, float]] = {
        "tangent": {"sigma_data": problem.denoiser.sigma_data},
        "ays": {"seed": protocol.seed},
    }
    sigmas = METHODS[method](
        problem.model,
        problem.noise(0, n),
        steps,
        protocol.sigma_min,
        protocol.sigma_max,
        solver=solver,
        labels=problem.labels(0, n),
        batch=batch,
        progress=progress,
        **options.get(method, {}),
    )
    return sigmas, {"seconds": round(time.perf_counter() - start, 3), "calls": float(problem.calls)}


class _Problem:
    """The model as the methods take it, with its evaluations counted, and the noise and labels to learn from."""

    def __init__(self, denoiser: Denoiser, record: ModelRecord, protocol: Protocol, prompts: Prompts | None = None):
        self.device = next(denoiser.parameters()).device
        self.denoiser = denoiser if prompts is None else denoiser.told(prompts.to(self.device))
        self.record, self.protocol = record, protocol
        self.trajectories = protocol.trajectories or TRAJECTORIES
        classes = 0 if record.conditions.takes_condition else record.num_classes
        self.classes = classes if prompts is None else len(prompts)
        self.calls = 0

    def model(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += len(x) * (1 if self.protocol.guidance == 1 else 2)
        return guided(self.denoiser, label, scale=self.protocol.guidance)(x, sigma)

    def noise(self, start: int, stop: int) -> Tensor:
        shape = self.record.shape
        return rng.normal(self.protocol.seed, "schedule", range(start, stop), shape).to(self.device)

    def labels(self, start: int, stop: int) -> Tensor | None:
        return (torch.arange(start, stop) % self.classes).to(self.device) if self.classes else None


def _measured(path: Path, problem: _Problem, solver: str, batch: int, progress: bool) -> Measurement:
    """The estimate from all trajectories, resumed where an earlier call stopped."""
    ode_solver(solver)  # refuses what has no local error
    protocol, total = problem.protocol, problem.trajectories
    key = {name: getattr(protocol, name) for name in ("seed", "sigma_min", "sigma_max", "guidance")}
    key |= {} if protocol.prompts is None else {"prompts": protocol.prompts}
    key |= {"model": problem.record.identity, "solver": solver, "nodes": NODES}
    measured = resumed_measurement(path, key, total)
    done = 0 if measured is None else measured.estimate.trajectories
    with stage(f"monitor of {solver}", total, "trajectory", shown=progress, start=done) as bar:
        while measured is None or done < total:
            stop, began = min(done + PART, total), time.perf_counter()
            problem.calls = 0
            part = estimate(
                problem.model,
                problem.noise(done, stop),
                protocol.sigma_min,
                protocol.sigma_max,
                solver=solver,
                nodes=NODES,
                labels=problem.labels(done, stop),
                batch=batch,
            )
            so_far = (
                Measurement(part) if measured is None else replace(measured, estimate=measured.estimate.merged(part))
            )
            measured = replace(
                so_far,
                seconds=so_far.seconds + time.perf_counter() - began,
                calls=so_far.calls + problem.calls,
            )
            bar.advance(stop - done)
            done = stop
            save_measurement(path, key, measured)
    return measured


def _kept(path: Path, wanted: Schedule, steps: int) -> Schedule | None:
    """The grid that an earlier call found, if it is of this kind."""
    try:
        found = load_schedule(path)
    except UserError:
        return None  # not there, or damaged: found again
    same = all(getattr(found, name) == getattr(wanted, name) for name in ("method", "solver", "model"))
    same &= wanted.protocol.items() <= found.protocol.items()
    return found if same and found.steps == steps else None


def _trained(
    path: Path, denoiser: Denoiser, wanted: Schedule, protocol: Protocol, steps: int, prompts: Prompts | None
) -> Schedule:
    """By a run of its own beside the others' files."""
    if steps == 1:
        return replace(wanted, sigmas=[protocol.sigma_max, 0.0])
    from .learn_schedule import learn_schedule  # Lightning: 4 s

    found = learn_schedule(
        path,
        wanted.method,
        steps,
        wanted.solver,
        seed=protocol.seed,
        guidance=protocol.guidance,
        sigma_min=protocol.sigma_min,
        sigma_max=protocol.sigma_max,
        overrides=[] if prompts is None else [f"data.prompts={json.dumps(list(prompts.texts), ensure_ascii=False)}"],
        accelerator="gpu" if next(denoiser.parameters()).is_cuda else "cpu",
    )
    return replace(found, protocol=found.protocol | wanted.protocol)
