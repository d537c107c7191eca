"""Choices of a consistency model's training that there are, and that go together."""

from pathlib import Path
from typing import Literal, get_args

from torch import nn

from ..condition import takes_condition
from ..foundation import lengths
from ..noise import InfoNoise, NoiseLaw, as_training_law
from ..objectives.consistency import Derivative, Normalisation
from ..weighting import AdaptiveWeight, Uniform
from .critic import Critic

Objective = Literal["distillation", "training", "regression"]


def refuse_unknown(**given: str) -> None:
    """ValueError for a choice that there is not."""
    for name, choices in (("objective", Objective), ("normalisation", Normalisation), ("derivative", Derivative)):
        if given[name] not in get_args(choices):
            raise ValueError(
                f"ConsistencyModule: {name} must be one of {', '.join(get_args(choices))}, got {given[name]!r}"
            )


def refuse_unfit(
    objective: Objective,
    *,
    start: str | Path | None,
    noise: NoiseLaw | None,
    warmup: int | float,
    c: float,
    guidance: tuple[float, float] | None,
    critic: Critic | None,
) -> None:
    """ValueError for numbers out of range, and for what does not go with the objective or this loss."""
    if isinstance(noise, InfoNoise):
        raise ValueError(
            "ConsistencyModule: InfoNoise follows the error of a denoiser, and this loss is another thing; "
            "take noise.LogNormal"
        )
    if warmup < 0 or not c > 0:
        raise ValueError(f"ConsistencyModule: need warmup >= 0 and c > 0, got {warmup}, {c}")
    lengths.refuse_parts("ConsistencyModule", warmup=warmup)
    if guidance is not None and not guidance[0] <= guidance[1]:
        raise ValueError(f"ConsistencyModule: guidance must be (low, high), got {guidance[0]:g} and {guidance[1]:g}")
    if objective != "training":
        return
    if guidance is not None:
        raise ValueError(
            "ConsistencyModule: guidance needs a teacher to be guided, objective=distillation or regression"
        )
    if start is not None:
        raise ValueError("ConsistencyModule: objective=training starts from its teacher; leave start out")
    if critic is not None:
        raise ValueError(
            "ConsistencyModule: a critic needs a teacher to be compared with, objective=distillation or regression"
        )


def refuse_unguided(net: nn.Module, num_classes: int) -> None:
    """ValueError for a network that is not conditioned, or on all but the scale of guidance."""
    if not num_classes and not takes_condition(net):
        raise ValueError("ConsistencyModule: guidance needs classes, and the data have none")
    if not getattr(net, "guided", False):
        raise ValueError("ConsistencyModule: guidance needs a network that takes the scale: net.guided=true")


def default_weighting(net: nn.Module, normalisation: Normalisation, noise: NoiseLaw) -> nn.Module:
    """A learned weight, from the optimum on for tangents of norm one; a constant for a law that has a share at its largest level.

    There tangents vanish with cos t: e^w = 1 / E[loss] grows by orders of magnitude, and the noise of that level drowns all else.

    ValueError for a network that does not tell its shape.
    """
    if as_training_law(noise).largest is not None:
        return Uniform()
    shape = getattr(net, "shape", None)
    if shape is None:
        raise ValueError("ConsistencyModule: give a weighting, because the network does not tell its shape")
    return AdaptiveWeight(shape, start=None if normalisation == "l2" else 0.0)
