"""What a solver is: the formula of its step, written once, and the loop over steps that is its sampler.

A step knows nothing of grids. Noise levels are Python floats where one grid is for all samples, and (B,) where each sample is at a
level of its own (see `stepwise`); coefficients of either kind multiply samples through `protocol.column`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Level, Sampler, check_sigmas, column, level, levels

Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True, eq=False)
class Node:
    """Where a solution is or was.

    Args:
        sigma: noise level, > 0; or 0 at a trajectory's end.
        x: (B, ...), the samples.
        denoised: (B, ...), D(x; sigma). (UniPC's is of x as it was predicted.)
    """

    sigma: Level
    x: Tensor
    denoised: Tensor

    @cached_property
    def slope(self) -> Tensor:
        """dx/dsigma = (x - D) / sigma, the noise that the denoiser sees in x."""
        return (self.x - self.denoised) / column(self.sigma, self.x)

    def of(self, rows: Tensor) -> "Node":
        """Some of the samples, each of which has a level of its own."""
        assert isinstance(self.sigma, Tensor)
        return Node(self.sigma[rows], self.x[rows], self.denoised[rows])


class Reached(NamedTuple):
    """Where a step leads.

    Args:
        x: at the next level.
        denoised: the denoiser's output there, if the step has called it and the next step starts with it; else None.
    """

    x: Tensor
    denoised: Tensor | None = None


@runtime_checkable
class StepFunction(Protocol):
    """One step, from a node to sigma_next > 0.

    Args:
        denoise: callable (x, sigma) -> x0.
        node: where it starts.
        sigma_next: one level for all or one for each, like the node's.
        past: the nodes before, the newest first, as many as there are and the solver keeps.
        left: steps to 0, this one included; None where nobody knows.
    """

    def __call__(
        self, denoise: Denoise, node: Node, sigma_next: Level, past: Sequence[Node] = (), left: int | None = None
    ) -> Reached: ...


@dataclass(frozen=True)
class Solver:
    """A way to draw samples.

    Args:
        name: in recipes, files and on the command line.
        sample: the sampler, (denoise, x, sigmas, *, generator=None, ...) -> x.
        calls_per_step: of the denoiser. The last step, to 0, is one call for every solver.
        serves: what kind of model it draws from.
        takes_churn: whether it has EDM's S_churn.
    """

    name: str
    sample: Sampler
    calls_per_step: int = 1
    serves: Literal["denoiser", "consistency"] = "denoiser"
    takes_churn: bool = False

    def __call__(self, denoise: Denoise, x: Tensor, sigmas: Float[Tensor, " nodes"], **options: Any) -> Tensor:
        return self.sample(denoise, x, sigmas, **options)

    def calls(self, steps: Count) -> Count:
        """Of the denoiser, by so many steps."""
        return self.calls_per_step * (steps - 1) + 1


@dataclass(frozen=True, kw_only=True)
class OdeSolver(Solver):
    """A solver of the probability-flow ODE: deterministic, of an order, and its steps can be taken one by one.

    Args:
        step: its formula.
        order: the error over a smooth grid falls as the number of steps to the power -order.
        keeps: how many nodes of the past its step looks at.
        two_step_order: p where the step with at most one node of the past, as far behind as the step goes, loses O(h^(p + 1)).
    """

    step: StepFunction
    order: int
    keeps: int = 0
    two_step_order: int


def follow(
    step: StepFunction,
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Float[Tensor, " nodes"],
    *,
    keeps: int = 0,
    churn: Callable[[Tensor, Level, int], tuple[Tensor, Level]] | None = None,
) -> Float[Tensor, "b ..."]:
    """The sampler that takes these steps along a grid. To 0 all go by Euler's step, whose result is the denoiser's output.

    Args:
        denoise, x, sigmas: see `samplers`.
        keeps: nodes of the past that the step looks at.
        churn: callable (x, sigma, number of the step) -> x and sigma with more noise, before each step; None for none.
    """
    nodes = levels(sigmas)
    past: tuple[Node, ...] = ()
    ahead: Tensor | None = None
    for i, (sigma, sigma_next) in enumerate(pairwise(nodes)):
        if churn is not None:
            x, sigma = churn(x, sigma, i)
        D = denoise(x, level(sigma, x)) if ahead is None else ahead
        if sigma_next == 0:
            x = D
            break
        node = Node(sigma, x, D)
        x, ahead = step(denoise, node, sigma_next, past, len(nodes) - 1 - i)
        past = (node, *past)[:keeps]
    return x


def count_calls(sampler: Sampler, x: Tensor, sigmas: Float[Tensor, " nodes"], **options: Any) -> int:
    """Of the denoiser, by any sampler on this grid, counted by running it."""
    check_sigmas(sigmas)
    calls = 0

    def count(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x

    sampler(count, x, sigmas, **options)
    return calls
