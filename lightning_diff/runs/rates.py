"""What a run's learning rate and averages come to over its length, and what of that nobody can have meant."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from itertools import pairwise

from lightning.pytorch import LightningModule, Trainer

from .. import ema
from ..callbacks.ema import find as find_ema
from ..foundation.errors import UserError
from ..modules import ConsistencyModule
from ..modules.base import CountedModule
from ..modules.in_turns import MakeInTurns

POINTS = 2000  # of a longer run, so many steps are looked at
MOST_AT_ZERO = 0.01  # of the steps


def learning_rates(module: LightningModule, trainer: Trainer, batch: int) -> str:
    """The learning rate at the start, in the middle and at the end, in a line; empty for a module that has none of ours."""
    if not isinstance(module, CountedModule):
        return ""
    at, steps = _rate(module, batch), int(trainer.max_steps)
    start, middle, end = (at(step) for step in (1, (steps + 1) // 2, steps))
    return f"learning rate {start:.3g} at the start, {middle:.3g} in the middle, {end:.3g} at the end"


def doubts(module: LightningModule, trainer: Trainer, batch: int, first: int = 0) -> list[str]:
    """A line for each thing that makes a training of no use: a rate of 0, one that only rises, an average longer than the run, a
    warm-up that undoes what it starts from.

    Args:
        module: what is to be trained.
        trainer: its Trainer; max_steps is the length of the run.
        batch: images of an optimiser step.
        first: steps that are done already.

    Raises:
        UserError: the learning rate is no number of at least 0.
    """
    steps = int(trainer.max_steps)
    if not isinstance(module, CountedModule) or first >= steps:
        return []
    found = (*_of_rate(module, batch, first, steps), *_of_averages(trainer, batch), *_of_start(module))
    return [f"warning: {doubt}" for doubt in found]


def _of_start(module: CountedModule) -> Iterator[str]:
    if not isinstance(module, ConsistencyModule) or module.objective == "regression":
        return
    if module.start.kind == "consistency" and module.warmup:
        yield (
            f"model.warmup: {module.start.path} is a consistency model, whose weights the tangent's warm-up draws back towards a "
            "denoiser; model.warmup=0 keeps them"
        )


def _of_rate(module: CountedModule, batch: int, first: int, steps: int) -> Iterator[str]:
    at, schedule = _rate(module, batch), module.learning_rate
    count = min(steps - first, POINTS)
    looked_at = [first + 1 + round(i * (steps - first - 1) / max(count - 1, 1)) for i in range(count)]
    rates = [at(step) for step in looked_at]
    at_zero = [step for step, rate in zip(looked_at, rates, strict=True) if rate == 0]
    share = len(at_zero) / count
    ends_there = at_zero == [steps] and count > 1  # as a cosine does
    if share > MOST_AT_ZERO and not ends_there:
        total = getattr(schedule, "total", None)
        way = f"; its total is {total:,} images: left out, it is the run's" if total is not None else ""
        yield f"model.learning_rate: the rate is 0 for {share:.0%} of the steps, first at step {at_zero[0]:,} of {steps:,}{way}"
    warmup = getattr(schedule, "warmup", 0)
    only_rises = count > 2 and all(a < b for a, b in pairwise(rates))
    if only_rises or (isinstance(warmup, int | float) and warmup > steps * batch):
        of = f" of {warmup:,} images" if warmup else ""
        yield (
            f"model.learning_rate: the run of {steps * batch:,} images never leaves its warm-up{of}: its highest rate is "
            f"{max(rates):.3g}; warmup as a number below 1 is a share of the run"
        )


def _of_averages(trainer: Trainer, batch: int) -> Iterator[str]:
    averages, images = find_ema(trainer), int(trainer.max_steps) * batch
    for name, profile in {} if averages is None else averages.profiles.items():
        half_life = ema.half_life(profile, images, batch)
        if half_life > images:
            length = f"{half_life:,.0f} images" if math.isfinite(half_life) else "never"
            yield (
                f"callbacks.EMA: the average {name} is longer than the run: it forgets half after {length}, and the run has "
                f"{images:,}; give profiles a shorter one"
            )


def _rate(module: CountedModule, batch: int) -> Callable[[int], float]:
    """Optimiser step, from 1 on, -> learning rate; the factor alone where the optimiser's own rate is not known."""
    make = module.make_optimizer
    make = make.first if isinstance(make, MakeInTurns) else make
    given = make.keywords if isinstance(make, partial) else {}
    try:
        defaults = {name: parameter.default for name, parameter in signature(make).parameters.items()}
    except (TypeError, ValueError):
        defaults = {}
    rate = given.get("lr", defaults.get("lr"))
    base = float(rate) if isinstance(rate, int | float) else 1.0

    def at(step: int) -> float:
        try:
            rate = base * float(module.learning_rate(step * batch))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UserError(
                f"model.learning_rate: no rate for step {step:,}: {' '.join(str(error).split())}"
            ) from error
        if not 0 <= rate < math.inf:
            raise UserError(f"model.learning_rate: expected a number of at least 0, got {rate} at step {step:,}")
        return rate

    return at
