"""Objectives of reward fine-tuning by the names that recipes have for them."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, cast, runtime_checkable

from torch import Tensor

from .advantage_weighted import advantage_weighted_loss
from .nft import nft_loss
from .policy_gradient import policy_gradient_loss


@runtime_checkable
class PostTrainingLoss(Protocol):
    """What each of them gives, besides figures of its own."""

    @property
    def loss(self) -> Tensor:
        """(B,), to be averaged, with the gradient that trains."""
        ...

    @property
    def kl(self) -> Tensor:
        """(B,) distance to the reference, without its factor and without a graph."""
        ...


OBJECTIVES: dict[str, Callable[..., PostTrainingLoss]] = {
    "nft": nft_loss,
    "advantage_weighted": advantage_weighted_loss,
    "policy_gradient": policy_gradient_loss,
}
FROM_ELSEWHERE = ("advantage_clip", "eta")  # what the rollouts need to know, too


def by_name(name: str, options: Mapping[str, object]) -> tuple[Callable[..., PostTrainingLoss], float]:
    """The loss with its options, and its factor of the distance to the reference."""
    takes = inspect.signature(OBJECTIVES[name]).parameters.values()
    free = {p.name: p.default for p in takes if p.kind is p.KEYWORD_ONLY and p.name not in FROM_ELSEWHERE}
    if unknown := options.keys() - free:
        raise ValueError(f"options: {name} has no {min(unknown)}; it has {', '.join(sorted(free))}")
    return partial(OBJECTIVES[name], **options), float(cast(float, (free | dict(options))["kl"]))
