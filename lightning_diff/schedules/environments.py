"""What a time grid may be rewarded for: the environments in which a schedule learner acts.

An environment starts an episode for a batch of noises. The learner then names each sample's next level, and the episode says where
the sample is and what the step cost; at the end it may add an outcome. The return is the outcome minus all costs.

    Surrogate     ART's cost |Q| h^2 / 2 for each step: Euler's error to leading order
    StepError     what one step of the solver at hand loses, measured
    EndPoint      minus the distance between the solver's end and a fine solution's, in pixels or in somebody's features
    Outcome       anybody's reward of the images that the solver ends at: any callable (images, label) -> (B,)

All take the very steps that the sampler of that name takes.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..rewards import Reward, scored
from ..samplers import Denoise, Node, OdeSolverName, ode_solver
from ..samplers.stepwise import Stepwise
from .costs import local_error, reference
from .trajectories import Labels

Levels = Float[Tensor, " b"]


@runtime_checkable
class Episode(Protocol):
    """A batch of samples under way."""

    def step(
        self, x: Tensor, D: Tensor, sigma: Levels, sigma_next: Levels, q: Levels
    ) -> tuple[Tensor, Float[Tensor, " b"]]:
        """Where x is at sigma_next, and the cost >= 0 of getting there. D and q are D(x; sigma) and |Q| there, known already."""
        ...

    def end(self, x: Tensor) -> Float[Tensor, " b"]:
        """The outcome for x at level 0; zeros where the costs were all."""
        ...


@runtime_checkable
class Environment(Protocol):
    """How episodes begin: `denoise` is a callable (x, sigma (B,)) -> x0, x starts at level sigma_max and makes `steps` steps."""

    def begin(self, denoise: Denoise, x: Tensor, sigma_max: float, label: Labels = None, *, steps: int) -> Episode: ...


class Surrogate:
    """|Q| h^2 / 2 for each step, along Euler's path (ART, arXiv 2601.18681, eq. 8).

    A Riemann sum: learn with 32 steps or more and resample the grid. The optimum at few steps is the sum's, not the solver's.
    """

    def begin(self, denoise: Denoise, x: Tensor, sigma_max: float, label: Labels = None, *, steps: int) -> Episode:
        return _Surrogate(denoise, steps)


class _Surrogate:
    def __init__(self, denoise: Denoise, steps: int):
        self.solution = Stepwise(denoise, "euler", steps)

    def step(self, x: Tensor, D: Tensor, sigma: Levels, sigma_next: Levels, q: Levels) -> tuple[Tensor, Tensor]:
        return self.solution(x, sigma, sigma_next, denoised=D), q * (sigma - sigma_next) ** 2 / 2

    def end(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


class StepError:
    """What one step of the solver loses, from the exact trajectory to the exact trajectory: true of long steps, too.

    A multistep solver has the episode's nodes on the exact trajectory for its past.

    Args:
        solver: a name in `samplers.ODE_SOLVERS`.
        substeps: of the fine solution of each step, two calls each.
    """

    def __init__(self, solver: OdeSolverName = "heun", substeps: int = 4):
        self.solver, self.substeps = ode_solver(solver).name, substeps

    def begin(self, denoise: Denoise, x: Tensor, sigma_max: float, label: Labels = None, *, steps: int) -> Episode:
        return _StepError(self, denoise, steps)


class _StepError:
    def __init__(self, environment: StepError, denoise: Denoise, steps: int):
        self.solver, self.substeps, self.denoise = ode_solver(environment.solver), environment.substeps, denoise
        self.past: tuple[Node, ...] = ()
        self.left = steps

    def step(self, x: Tensor, D: Tensor, sigma: Levels, sigma_next: Levels, q: Levels) -> tuple[Tensor, Tensor]:
        done = local_error(
            self.denoise,
            x,
            sigma,
            sigma_next,
            self.solver.name,
            past=self.past,
            left=self.left,
            substeps=self.substeps,
            denoised=D,
        )
        self.past, self.left = (done.node, *self.past)[: self.solver.keeps], self.left - 1
        return done.exact, done.error

    def end(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


class Outcome:
    """A reward of the images that the solver ends at.

    Args:
        reward: a `rewards.Reward`, any callable (images (B, ...) in [-1, 1], label (B,)) -> (B,), greater is better; its scale does
            not matter. Samples are clipped for it; without classes, labels are 0.
        solver: a name in `samplers.ODE_SOLVERS`.
    """

    def __init__(self, reward: Reward, solver: OdeSolverName = "heun"):
        self.reward, self.solver = reward, ode_solver(solver).name

    def begin(self, denoise: Denoise, x: Tensor, sigma_max: float, label: Labels = None, *, steps: int) -> Episode:
        def outcome(end: Tensor) -> Tensor:
            labels = label if isinstance(label, Tensor) else end.new_zeros(len(end), dtype=torch.int64)
            return scored(self.reward, end.clamp(-1, 1), labels)

        return _Solve(denoise, self.solver, steps, outcome)


class EndPoint:
    """Minus the root mean square distance between where the solver ends and where a fine solution of the same noise does.

    Args:
        solver: a name in `samplers.ODE_SOLVERS`.
        substeps: Heun steps of the fine solution, two calls each.
        features: callable images -> (B, ...), in which the distance is measured; None for the images themselves.
    """

    def __init__(
        self, solver: OdeSolverName = "heun", substeps: int = 64, features: Callable[[Tensor], Tensor] | None = None
    ):
        self.solver, self.substeps, self.features = ode_solver(solver).name, substeps, features

    def begin(self, denoise: Denoise, x: Tensor, sigma_max: float, label: Labels = None, *, steps: int) -> Episode:
        start = torch.full((len(x),), sigma_max, dtype=torch.float64, device=x.device)
        target = self._seen(reference(denoise, x, start, torch.zeros_like(start), self.substeps))
        return _Solve(
            denoise, self.solver, steps, lambda end: -(self._seen(end) - target).flatten(1).square().mean(1).sqrt()
        )

    def _seen(self, x: Tensor) -> Tensor:
        return x if self.features is None else self.features(x)


class _Solve:
    """The solver's own steps, which cost nothing, and an outcome."""

    def __init__(self, denoise: Denoise, solver: str, steps: int, outcome: Callable[[Tensor], Tensor]):
        self.solution, self.outcome = Stepwise(denoise, solver, steps), outcome

    def step(self, x: Tensor, D: Tensor, sigma: Levels, sigma_next: Levels, q: Levels) -> tuple[Tensor, Tensor]:
        return self.solution(x, sigma, sigma_next, denoised=D), torch.zeros_like(q)

    def end(self, x: Tensor) -> Tensor:
        return self.outcome(x)
