"""Which way of exploring is worth its cost, from groups whose whole pools were drawn in full.

What an epoch teaches about the reward grows with the spread of the rewards it trains on: in a regression on extreme groups, the
information is the sum of squared distances from the mean. So an option is worth

    information / cost = Var(true rewards of the images it would keep, within groups) / evaluations, weighted by precision

and the best one is taken among those whose scores order images as the final rewards do: Spearman's correlation of at least a
threshold. Options without previews order them perfectly and cost the most.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..samplers import nfe
from .plan import Plan
from .ranking import mean_spearman
from .selection import select


class Option(NamedTuple):
    """A way to explore; without `preview_steps` the whole pool is drawn in full."""

    pool: int
    preview_steps: int | None
    precision: str

    def of(self, plan: Plan) -> Plan:
        """The plan with this way to explore."""
        regenerate = None if self.preview_steps is None else plan.regenerate
        return replace(plan, **self._asdict(), regenerate=regenerate and min(regenerate, self.pool))


class Worth(NamedTuple):
    """What an option was found to be worth.

    Args:
        agreement: mean Spearman correlation of its scores with the final rewards, over whole pools.
        information: mean variance of the final rewards that it would keep, within groups.
        cost: of one group, in evaluations of the network in full precision.
    """

    option: Option
    agreement: float
    information: float
    cost: float

    @property
    def rate(self) -> float:
        return self.information / self.cost


def options(
    plan: Plan, pools: Sequence[int], preview_steps: Sequence[int], precisions: Sequence[str]
) -> Iterable[Option]:
    """Every combination, and each pool without previews."""
    for pool in pools:
        yield from (Option(pool, steps, precision) for precision in precisions for steps in preview_steps)
        yield Option(pool, None, "full")


def cost(plan: Plan, option: Option, costs: Mapping[str, int | float], training: int | float = 0) -> float:
    """Evaluations that one group takes, each weighted by what its precision costs relative to full precision.

    Args:
        plan: what else there is to know.
        option: how to explore.
        costs: relative cost of an evaluation by precision; 1 where left out.
        training: evaluations that an image costs in training.
    """

    def calls(steps: int) -> int:
        return nfe(plan.solver, plan.sampling(steps).sigmas)

    trained = plan.keep * training
    if option.preview_steps is None:
        return float(option.pool * calls(plan.steps) + trained)
    explored = option.pool * calls(option.preview_steps) * costs.get(option.precision, 1.0)
    return float(explored + option.of(plan).regenerated * calls(plan.steps) + trained)


def worth(
    plan: Plan,
    option: Option,
    preview: Float[Tensor, "g n"],
    true: Float[Tensor, "g n"],
    keys: Sequence[int],
    costs: Mapping[str, int | float],
    training: int | float = 0,
) -> Worth:
    """What an option is worth, from its scores and the final rewards of whole pools.

    Args:
        plan, option, costs, training: see `cost`.
        preview: the option's scores; those of `true` if it has no previews.
        true: final rewards; as many as the option's pool or more, of which the first count.
        keys: of the groups, for selections at random (see `selection.select`).
    """
    preview, true = preview[:, : option.pool], true[:, : option.pool]
    regenerated = plan.keep if option.preview_steps is None else option.of(plan).regenerated
    first = select(preview, regenerated, plan.select, keys)
    kept = true.gather(1, first)
    kept = kept.gather(1, select(kept, plan.keep, plan.select, keys))
    information = float(kept.var(1, correction=0).mean())
    return Worth(option, mean_spearman(preview, true), information, cost(plan, option, costs, training))


def best(found: Sequence[Worth], now: Option, threshold: float, margin: float = 0.1) -> Worth:
    """The worthiest option whose agreement reaches the threshold; the present one, if none is better by the margin.

    Args:
        found: of all options; those without previews always reach the threshold.
        now: the present one.
        threshold: least agreement.
        margin: share by which another has to be better.
    """
    trusted = [each for each in found if each.agreement >= threshold or each.option.preview_steps is None]
    if not trusted:
        raise ValueError("best: no option reaches the threshold, and none goes without previews")
    top = max(trusted, key=lambda each: each.rate)
    present = next((each for each in trusted if each.option == now), None)
    return present if present is not None and top.rate <= (1 + margin) * present.rate else top


def fallback(plan: Plan) -> Option:
    """Where previews are no longer to be trusted: those of the policy itself, and if they are that already, none."""
    if plan.precision != "full" and plan.preview_steps is not None:
        return Option(plan.pool, plan.preview_steps, "full")
    return Option(plan.pool, None, "full")


def diversity(images: Float[Tensor, "g n *s"]) -> float:
    """Root mean square, over groups and pixels, of the standard deviation between images of one group; 0 if all are one image."""
    return float(images.double().var(1, correction=0).mean().sqrt())


def within(rewards: Float[Tensor, "g n"]) -> float:
    """Standard deviation of rewards within their groups."""
    return float(torch.as_tensor(rewards).double().var(1, correction=0).mean().sqrt())
