"""Two optimisers as one: of a network and its critic, of which each step moves one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..foundation.errors import UserError
from .optimizer_state import Optimizer


class InTurns(torch.optim.Optimizer):
    """Optimisers of different parameters, each with options and state of its own; a step is one of those whose turn it is.

    Whose parameters have gradients, its turn it is: the others are left alone, moments, step counts and weight decay included. For
    Lightning, clipping, averages and checkpoints it is one optimiser, whose groups are those of all parts one after the other.

    Args:
        parts: the optimisers; their groups and state are shared from here on.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        super().__init__([weight for part in parts for group in part.param_groups for weight in group["params"]], {})
        self.parts = tuple(parts)
        self.param_groups = [group for part in parts for group in part.param_groups]
        for part in parts:
            self.state.update(part.state)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state, part.param_groups = self.state, [next(groups) for _ in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            if any(weight.grad is not None for group in part.param_groups for weight in group["params"]):
                part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


@dataclass(frozen=True)
class MakeInTurns:
    """Takes the parameters of two networks, returns the optimiser of both.

    Args:
        first: makes that of all parameters but the last `count`.
        second: makes that of these.
        count: how many are the second network's.
        key: of the recipe that names `second`, for messages.
    """

    first: Optimizer
    second: Optimizer
    count: int
    key: str

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        weights = list(parameters)
        one = self.first(iter(weights[: -self.count]))
        try:
            other = self.second(iter(weights[-self.count :]))
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"{self.key}: {str(error).splitlines()[0]}") from error
        return InTurns([one, other])
