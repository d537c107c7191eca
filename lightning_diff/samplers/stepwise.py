"""Solvers one step at a time, for noise levels that are not known beforehand and differ among samples."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..foundation.devices import is_host
from . import Denoise, Node, OdeSolver, ode_solver
from .solver import Reached

Sigma = Float[Tensor, ""] | Float[Tensor, " b"]


def step(
    solver: OdeSolver,
    denoise: Denoise,
    node: Node,
    sigma_next: Sigma,
    past: Sequence[Node] = (),
    left: int | None = None,
) -> Reached:
    """The solver's step from a node, to 0 for some samples perhaps: there all go by Euler's step, whose result is the output there.

    Args:
        solver: see `samplers.ode_solver`.
        denoise: callable (x, sigma) -> x0, with sigma like sigma_next.
        node: its level is a tensor, one for all or one for each sample.
        sigma_next: below the node's level, >= 0.
        past: the nodes before, the newest first; what the solver does not keep is not looked at.
        left: steps to 0, this one included; None where nobody knows.
    """
    last = sigma_next == 0
    if last.all() if is_host(last.device) else left == 1:  # a device would be waited for
        return Reached(node.denoised)
    # Samples whose step is the last one compute along with the others, at any noise level, and are replaced.
    above = torch.where(last, torch.as_tensor(node.sigma) / 2, sigma_next)
    reached = solver.step(denoise, node, above, past[: solver.keeps], left)
    ahead = None if reached.denoised is None else torch.where(_mask(last, node.x), node.denoised, reached.denoised)
    return Reached(torch.where(_mask(last, node.x), node.denoised, reached.x), ahead)


class Stepwise:
    """A solution under way: what the sampler of that name does on each sample's own grid, call for call.

    Args:
        denoise: callable (x, sigma (B,)) -> x0.
        solver: a name in `samplers.ODE_SOLVERS`.
        steps: how many there will be; None if nobody knows, and then UniPC does not lower its order towards the end.
    """

    def __init__(self, denoise: Denoise, solver: str, steps: int | None):
        self.denoise, self.solver, self.left = denoise, ode_solver(solver), steps
        self._past: tuple[Node, ...] = ()
        self._ahead: Tensor | None = None  # the output at the node where it is, if the step to it made the call

    def denoised(self, x: Float[Tensor, "b *s"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b *s"]:
        """The denoiser's output that the next step starts with; called now, unless the last step has called it already."""
        return self.denoise(x, sigma.to(x.dtype)) if self._ahead is None else self._ahead

    def __call__(
        self,
        x: Float[Tensor, "b *s"],
        sigma: Float[Tensor, " b"],
        sigma_next: Float[Tensor, " b"],
        *,
        denoised: Tensor | None = None,
    ) -> Float[Tensor, "b *s"]:
        """x at sigma_next, which is 0 at the last of the steps; `denoised` is D(x; sigma) if it is known."""
        D = self.denoised(x, sigma) if denoised is None or self._ahead is not None else denoised
        if self.left == 1:  # no level is looked at
            return D
        node = Node(sigma, x, D)
        x, self._ahead = step(self.solver, self.denoise, node, sigma_next, self._past, self.left)
        self._past = (node, *self._past)[: self.solver.keeps]
        self.left = None if self.left is None else self.left - 1
        return x

    def keep(self, rows: Tensor) -> None:
        """Drop the other samples."""
        self._past = tuple(node.of(rows) for node in self._past)
        self._ahead = None if self._ahead is None else self._ahead[rows]


def _mask(last: Tensor, x: Tensor) -> Tensor:
    return last.reshape(-1, *[1] * (x.ndim - 1))
