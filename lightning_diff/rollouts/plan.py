"""How a rollout's images are drawn: how many, how carefully, and which of them are kept."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..precision import Kind
from ..samplers import OdeSolverName, ode_solver
from ..schedules.sampling import Sampling, choose
from .selection import Mode

Precision = Literal["full", Kind]
Grid = Literal["karras", "uniform", "log_snr", "tangent"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an epoch's images are drawn. The defaults are Sol-RL's.

    Args:
        prompts: groups in an epoch.
        pool: N, seeds of each prompt, >= keep.
        keep: images of each prompt that are trained on; for the mode "extremes" half of them the best, half the worst.
        steps: of the solver in full precision.
        preview_steps: of the solver while exploring; None explores in no other way than the final one: the whole pool is drawn in
            full, and `keep` of it kept.
        precision: of the copy of the network that explores, "full" or a kind of `precision.quantized_copy`.
        select: how seeds are chosen by their scores (see `select`).
        regenerate: how many of each prompt's seeds are drawn again, of which `keep` are chosen by their final rewards; between
            `keep` and `pool`. None: `keep`.
        solver, grid, sigma_min, sigma_max: see `sampling.choose`; deterministic, so that a preview is one of the seed's image. What
            the policy gradient keeps is drawn with noise that its preview does not have.
        batch: images at a time. Groups are taken together as long as their pools fit; what is drawn together is always the same,
            whatever the number of processes.
    """

    prompts: int = 48
    pool: int = 96
    keep: int = 24
    steps: int = 10
    preview_steps: int | None = 6
    precision: Precision = "full"
    select: Mode = "extremes"
    regenerate: int | None = None
    solver: OdeSolverName = "dpmpp_2m"
    grid: Grid = "karras"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    batch: int = 256

    def __post_init__(self) -> None:
        numbers = {"prompts": self.prompts, "keep": self.keep, "steps": self.steps, "batch": self.batch}
        for name, number in (numbers | {"preview_steps": self.preview_steps}).items():
            if number is not None and number < 1:
                raise ValueError(f"Plan: {name} must be at least 1, got {number}")
        refuse_unknown_precision("Plan: precision", self.precision)
        ode_solver(self.solver)  # refuses what is none
        if not self.keep <= self.regenerated <= self.pool:
            raise ValueError(
                f"Plan: need keep <= regenerate <= pool, got {self.keep}, {self.regenerated} and {self.pool}"
            )
        if self.preview_steps is None and (self.regenerate is not None or self.precision != "full"):
            raise ValueError("Plan: without preview_steps nothing is drawn twice; leave out regenerate and precision")

    @property
    def regenerated(self) -> int:
        """Images of each prompt that are drawn in full after exploring."""
        return self.keep if self.regenerate is None else self.regenerate

    @property
    def images(self) -> int:
        """Images of an epoch that are trained on."""
        return self.prompts * self.keep

    def sampling(self, steps: int) -> Sampling:
        """The solver and its noise levels in so many steps."""
        return choose(None, self.solver, steps, self.grid, sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def chunks(self) -> list[range]:
        """The epoch's groups as they are drawn together, by number from 0."""
        size = max(1, self.batch // self.pool)
        return [range(first, min(first + size, self.prompts)) for first in range(0, self.prompts, size)]

    def even_batch(self, processes: int) -> int | None:
        """The `batch` nearest to this one with which every process draws as much as the others; None if no number does that."""
        sizes = [groups for groups in range(1, self.prompts + 1) if self.prompts % (groups * processes) == 0]
        return min((groups * self.pool for groups in sizes), key=lambda batch: abs(batch - self.batch), default=None)


def refuse_unknown_precision(name: str, precision: str) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"{name} must be one of {', '.join(get_args(Precision))}, got {precision!r}")
