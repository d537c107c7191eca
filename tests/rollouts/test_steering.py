"""Which way of exploring is worth its cost: the rule, on scores whose ranking is known."""

import pytest
import torch

from lightning_diff.rollouts import Plan, steering
from lightning_diff.rollouts.steering import Option, Worth

PLAN = Plan(pool=48, keep=8, steps=10, preview_steps=5)


def pools(noise: float):
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(50, 96, generator=generator, dtype=torch.float64)
    return true + noise * torch.randn(50, 96, generator=generator, dtype=torch.float64), true


def worth(option, noise=0.0, **costs):
    return steering.worth(PLAN, option, *pools(noise), range(50), costs)


def test_extremes_of_a_larger_pool_are_worth_more_and_poor_previews_less():
    spread = [worth(Option(pool, 5, "full")).information for pool in (8, 24, 48, 96)]
    assert spread == sorted(spread)
    assert spread[0] == pytest.approx(1 - 1 / 8, rel=0.1)  # the variance of 8 normal numbers, not divided by 7
    found = [worth(Option(96, 5, "full"), noise) for noise in (0.0, 0.5, 2.0)]
    assert [each.information for each in found] == sorted((each.information for each in found), reverse=True)
    assert found[0].agreement == 1
    # Pearson's correlation of a normal number with itself and noise, as Spearman's: 6 / pi arcsin(r / 2).
    rho = 6 / torch.pi * torch.asin(torch.tensor(0.5 / 1.25**0.5))
    assert found[1].agreement == pytest.approx(float(rho), abs=0.02)


def test_costs_count_evaluations_by_precision_and_what_training_takes():
    assert steering.cost(PLAN, Option(48, 5, "fp8"), {"fp8": 0.5}) == 48 * 5 * 0.5 + 8 * 10
    assert steering.cost(PLAN, Option(48, 5, "fp8"), {}) == 48 * 5 + 8 * 10
    assert steering.cost(PLAN, Option(24, None, "full"), {"full": 9.0}, training=30) == 24 * 10 + 8 * 30
    wide = Plan(pool=48, keep=8, steps=10, preview_steps=5, regenerate=16)
    assert steering.cost(wide, Option(12, 5, "full"), {}) == 12 * 5 + 12 * 10


def test_the_best_is_trusted_and_better_by_a_margin():
    def found(pool, agreement, rate, steps=5):
        return Worth(Option(pool, steps, "full"), agreement, rate, 1.0)

    now, better, liar, sure = found(24, 0.9, 1.0), found(48, 0.8, 1.05), found(96, 0.3, 9.0), found(24, 1.0, 0.5, None)
    everything = [now, better, liar, sure]
    assert steering.best(everything, now.option, 0.7) is now
    assert steering.best(everything, now.option, 0.7, margin=0.0) is better
    assert steering.best(everything, now.option, 0.85) is now
    assert steering.best(everything, now.option, 0.95) is sure
    assert steering.best(everything, liar.option, 0.7) is better


def test_where_previews_are_not_to_be_trusted_precision_goes_first_and_then_the_previews():
    low = Plan(pool=48, keep=8, precision="nvfp4")
    first = steering.fallback(low).of(low)
    assert (first.pool, first.preview_steps, first.precision) == (48, 6, "full")
    then = steering.fallback(first).of(first)
    assert (then.pool, then.preview_steps, then.precision) == (48, None, "full")
    assert steering.fallback(then).of(then) == then


def test_every_option_makes_a_plan():
    wide = Plan(pool=48, keep=8, regenerate=16)
    for option in steering.options(wide, [8, 24, 96], [2, 6], ["nvfp4", "full"]):
        assert option.of(wide).regenerated == (8 if option.preview_steps is None else min(16, option.pool))


def test_diversity_is_the_spread_of_images_within_groups():
    same = torch.randn(3, 1, 4, 4)[:, None].expand(3, 5, 1, 4, 4)
    assert steering.diversity(same) < 1e-6
    assert steering.diversity(same + 2 * torch.randn(3, 5, 1, 4, 4)) > 1
    assert steering.within(torch.tensor([[1.0, 3.0], [10.0, 10.0]])) == pytest.approx(0.5**0.5)
