"""Choices of a consistency model's training that there are, and that go together."""

from typing import Literal, get_args

from ..objectives.consistency import Derivative, Normalisation

Objective = Literal["distillation", "training"]


def refuse_unknown(**given: str) -> None:
    """ValueError for a choice that there is not."""
    for name, choices in (("objective", Objective), ("normalisation", Normalisation), ("derivative", Derivative)):
        if given[name] not in get_args(choices):
            raise ValueError(
                f"ConsistencyModule: {name} must be one of {', '.join(get_args(choices))}, got {given[name]!r}"
            )


def refuse_unguided(guidance: tuple[float, float], objective: Objective) -> None:
    """ValueError for scales out of order, or without a teacher."""
    if not guidance[0] <= guidance[1]:
        raise ValueError(f"ConsistencyModule: guidance must be (low, high), got {guidance[0]:g} and {guidance[1]:g}")
    if objective == "training":
        raise ValueError("ConsistencyModule: guidance needs a teacher to be guided, objective=distillation")
