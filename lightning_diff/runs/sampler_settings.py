"""Sampler settings (solver, noise levels, guidance), with defaults by kind of model, checked before any work.

Every message names the option of the command line.
"""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

from ..artifacts import ModelRecord
from ..artifacts.schedule import load_schedule
from ..artifacts.step_policy import holds_step_policy, load_step_policy
from ..foundation.errors import UserError
from ..samplers import CHURNED, ODE_SOLVERS, SOLVERS
from ..schedules import GRIDS
from ..schedules.adaptive_sampling import PolicySampling
from ..schedules.grids import through_angles
from ..schedules.sampling import CONSISTENCY_STEPS, SIGMA_MAX, Sampling, choose
from . import named
from .choices import either, refuse_unknown
from .console import say

SIGMA_MIN = 0.002  # of a denoiser's grids, as EDM's


def level_range(
    record: ModelRecord, sigma_min: float | None = None, sigma_max: float | None = None
) -> tuple[float, float]:
    """Smallest and largest noise level of a model's grids: those asked for, else an imported model's own, else EDM's.

    The largest is infinity for a model that starts from pure noise.
    """
    own = record.sampling.get("arguments", {})
    low, high = own.get("sigma_min", SIGMA_MIN), own.get("sigma_max", SIGMA_MAX)
    return low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How to sample from a model. What is None suits the model.

    Args:
        solver: name in `samplers.SOLVERS`. A denoiser's default is heun, a consistency model's is consistency, an imported model's
            its scheduler's; likewise the grid and its ends.
        steps: of the solver, >= 1; default 18, of a consistency model 2.
        grid: name in `schedules.GRIDS`.
        levels: of the solver consistency after the first, decreasing; instead of a grid. Default: those in the model's record.
        schedule: a schedule.json or a step_policy.safetensors, or a run with one, in place of grid, levels and sigma_*.
        sigma_min, sigma_max: of the grid; default 0.002 and 80, those of an imported model's scheduler, or of a consistency model
            the level that its record says.
        churn: EDM's S_churn, >= 0; for solvers in `samplers.CHURNED`.
        guidance: scale; 1 is none.
        guide: run of a worse model to guide by; None for this one without labels.
        interval: noise levels at which to guide.
        seed: another one, other samples.
        batch: images at a time; the samples do not depend on it.
        device: a name of torch's, or auto.
    """

    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    levels: tuple[float, ...] | None = None
    schedule: Path | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    churn: float = 0.0
    guidance: float = 1.0
    guide: Path | None = None
    interval: tuple[float, float] = (0.0, math.inf)
    seed: int = 0
    batch: int = 256
    device: str = "auto"

    @property
    def departures(self) -> list[str]:
        """What differs from the defaults beside solver, steps, schedule and seed, in a few letters each, for a file name."""
        own = {
            "": self.grid,
            "levels": self.levels and ",".join(f"{level:g}" for level in self.levels),
            "min": self.sigma_min,
            "max": self.sigma_max,
            "churn": self.churn or None,
            "guidance": self.guidance if self.guidance != 1 else None,
            "by": self.guide and self.guide.name,
            "in": "{:g}-{:g}".format(*self.interval) if self.interval != (0.0, math.inf) else None,
        }
        return [
            f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}"
            for name, value in own.items()
            if value is not None
        ]

    @property
    def solver_options(self) -> dict[str, float]:
        """Further arguments of the solver."""
        return {"S_churn": self.churn} if self.churn else {}  # only some solvers take it

    def sampling(self, record: ModelRecord) -> Sampling | PolicySampling:
        """The solver and its noise levels for a model, or the policy that chooses them sample by sample.

        Raises:
            UserError: settings that do not go together or not with this model.
        """
        if self.interval[0] > self.interval[1]:
            first, second = self.interval
            raise UserError(f"--interval: the first level must not exceed the second, got {first:g} {second:g}")
        if self.schedule is None:
            return self._on_a_grid(record)
        found = self._scheduled(record, self.schedule)
        if self.churn and (found.solver not in CHURNED or isinstance(found, PolicySampling)):
            raise UserError(f"--churn: is for the solver {either(CHURNED)} on a grid, not {found.name}")
        return found

    def _on_a_grid(self, record: ModelRecord) -> Sampling:
        if self.solver is not None:
            refuse_unknown("--solver", self.solver, SOLVERS)
        if self.grid is not None:
            refuse_unknown("--grid", self.grid, GRIDS)
        sigma_min, sigma_max = level_range(record, self.sigma_min, self.sigma_max)
        arguments = record.sampling.get("arguments", {})  # of an imported model's grid
        own = {name: value for name, value in arguments.items() if name not in ("sigma_min", "sigma_max")}
        solver = self.solver or record.sampling.get("solver")
        if self.sigma_max is None and self.grid is None and self.levels is None and solver in (None, "consistency"):
            sigma_max = record.starts.get(self.steps or CONSISTENCY_STEPS, sigma_max)
        is_own = self.grid is None and self.levels is None and solver != "consistency"
        grid, options = (record.sampling.get("grid"), own) if is_own else (self.grid, {})
        try:
            chosen = choose(
                record,
                solver,
                self.steps,
                grid,
                self.levels,
                sigma_min=sigma_min,
                sigma_max=sigma_max,
                options=options,
            )
            kept = record.levels.get(chosen.steps)
            if chosen.name == "consistency" and kept is not None:
                chosen = choose(record, self.solver, None, None, kept, sigma_max=sigma_max)
        except ValueError as error:
            option = "--sigma-min, --sigma-max" if self.levels is None else "--levels"
            raise UserError(f"{option}: {error}") from error
        if self.churn and chosen.solver not in CHURNED:
            raise UserError(f"--churn: is for the solver {either(CHURNED)}, not {chosen.solver}")
        return chosen

    def _scheduled(self, record: ModelRecord, path: Path) -> Sampling | PolicySampling:
        """The grid in a file, for its solver and number of steps or for other ones; or the policy in a file, as it is.

        Either may be used on another model than it was learned on, with a warning.
        """
        where = path if path.suffix in (".json", ".safetensors") else named.home(named.find(path))
        if holds_step_policy(where):
            return self._with_a_policy(record, where)
        for option, value in self._levels_of_its_own().items():
            if value is not None:
                raise UserError(f"{option}: is not for --schedule, which gives the noise levels")
        found = load_schedule(where)
        if self.solver is not None:
            refuse_unknown("--solver", self.solver, ODE_SOLVERS)
        if record.identity != found.model:
            warnings.warn(f"{path}: was learned on another model; the grid may serve this one less well", stacklevel=2)
        solver, sigmas = self.solver or found.solver, found.grid()
        name = f"{solver}/{found.method}"
        if self.steps is not None and self.steps != found.steps:
            if found.steps == 1:
                raise UserError(f"--steps: {path} has one step, of which no other grid can be made")
            sigmas, name = through_angles(sigmas, self.steps, record.sigma_data), f"{name}@{found.steps}"
        return Sampling(solver, sigmas, name)

    def _with_a_policy(self, record: ModelRecord, path: Path) -> PolicySampling:
        for option, value in {"--solver": self.solver, "--steps": self.steps, **self._levels_of_its_own()}.items():
            if value is not None:
                raise UserError(
                    f"{option}: is not for the policy of --schedule, which chooses each sample's levels itself"
                )
        if record.kind == "consistency":
            raise UserError(f"--schedule: {path} is a step policy for denoisers, and this is a consistency model")
        found = load_step_policy(path)
        if record.identity != found.model:
            warnings.warn(
                f"{path}: was learned on another model; the policy may serve this one less well", stacklevel=2
            )
        return PolicySampling(found.policy, f"{found.policy.solver}/policy_{found.policy.gamma:g}")

    def _levels_of_its_own(self) -> dict[str, object]:
        """The options that say what a schedule says too."""
        own = {"--grid": self.grid, "--levels": self.levels}
        return {**own, "--sigma-min": self.sigma_min, "--sigma-max": self.sigma_max}

    def refuse_unfit_guidance(self, record: ModelRecord, *, labelled: bool = True) -> None:
        """UserError if the model cannot be sampled so.

        Args:
            record: of the model.
            labelled: whether the samples have labels.
        """
        fault = record.conditions.fault(self.guidance, labelled=labelled, has_guide=self.guide is not None)
        if fault is not None:
            raise UserError(f"--{fault[0]}: {fault[1]}")

    def say_doubt(self, record: ModelRecord, *, labelled: bool = True) -> None:
        """Print what the model's record leaves open of its guidance; arguments as for `refuse_unfit_guidance`."""
        doubt = record.conditions.doubt(self.guidance, labelled=labelled, has_guide=self.guide is not None)
        if doubt is not None:
            say(f"guidance {self.guidance:g}: {doubt}")
