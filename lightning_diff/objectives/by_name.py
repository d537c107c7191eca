"""Objectives of reward fine-tuning by the names that recipes have for them."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .advantage_weighted import advantage_weighted_loss
from .nft import nft_loss
from .policy_gradient import policy_gradient_loss

OBJECTIVES: dict[str, Callable[..., Any]] = {
    "nft": nft_loss,
    "advantage_weighted": advantage_weighted_loss,
    "policy_gradient": policy_gradient_loss,
}
FROM_ELSEWHERE = ("advantage_clip", "eta")  # what the rollouts need to know, too


def by_name(name: str, options: Mapping[str, Any]) -> tuple[Callable[..., Any], float]:
    """The loss with its options, and its factor of the distance to the reference."""
    takes = inspect.signature(OBJECTIVES[name]).parameters.values()
    free = {p.name: p.default for p in takes if p.kind is p.KEYWORD_ONLY and p.name not in FROM_ELSEWHERE}
    if unknown := options.keys() - free:
        raise ValueError(f"options: {name} has no {min(unknown)}; it has {', '.join(sorted(free))}")
    return partial(OBJECTIVES[name], **options), float((free | dict(options))["kl"])
