"""From which rewards advantages are counted: the mean of a pool that was not drawn, and what has no meaning."""

import pytest
import torch

from lightning_diff.rewards import Brightness, WeightedSum
from lightning_diff.rollouts import Advantages, Plan, Rollout, selection
from lightning_diff.rollouts.advantages import pool_mean

PLAN = Plan(pool=96, keep=24)


def pools(noise: float, groups: int = 200):
    """Previews off the final rewards by a slope and an offset of each group's own; true rewards."""
    generator = torch.Generator().manual_seed(0)
    preview = torch.randn(groups, 96, generator=generator, dtype=torch.float64)
    offset = 3 + torch.randn(groups, 1, generator=generator, dtype=torch.float64)
    chance = torch.randn(groups, 96, generator=generator, dtype=torch.float64)
    return preview, offset + 0.8 * preview + noise * chance


@pytest.mark.parametrize("mode", ["extremes", "top"])
def test_the_mean_of_a_pool_is_estimated_without_bias_by_what_its_previews_selected(mode):
    for noise, tolerance in ((0.0, 1e-12), (0.6, 0.06)):
        preview, true = pools(noise)
        chosen = selection.select(preview, 24, mode)
        kept = true.gather(1, chosen)
        error = pool_mean(preview, chosen, kept) - true.mean(1)
        assert error.mean().abs() < tolerance
    by_difference = preview.mean(1) + (kept - preview.gather(1, chosen)).mean(1) - true.mean(1)
    assert (by_difference.mean().abs() > 0.2) == (mode == "top")  # the highest previews are those that flatter


def test_without_previews_it_is_the_pools_mean_and_where_they_say_nothing_the_means_of_what_is_kept():
    _, true = pools(0.6, groups=3)
    chosen = selection.select(true, 24, "top")
    assert torch.allclose(pool_mean(true, chosen, true.gather(1, chosen)), true.mean(1))
    constant = torch.zeros_like(true)
    assert torch.equal(pool_mean(constant, chosen, true.gather(1, chosen)), true.gather(1, chosen).mean(1))


def test_previews_that_are_all_off_by_a_number_change_no_advantage():
    preview, true = pools(0.6, groups=5)
    chosen = selection.select(preview, 24, "top")
    kept = true.gather(1, chosen)
    drawn = Rollout(None, chosen, preview, chosen, kept, kept)
    values = Advantages(baseline="pool").of(drawn)
    assert torch.allclose(Advantages(baseline="pool").of(drawn._replace(preview=preview - 7)), values)
    assert (values.mean(1) > 0.2).all()  # the best of a pool, counted from its mean
    assert Advantages().of(drawn).mean(1).abs().max() < 1e-12


def test_what_has_no_meaning_is_refused():
    total, raw = (WeightedSum({"a": Brightness()}, normalise=how) for how in ("label", "none"))
    with pytest.raises(ValueError, match=r"spread: 0\.5"):
        Advantages(spread=0.5).refuse_meaningless(total, PLAN)
    with pytest.raises(ValueError, match="baseline: pool"):
        Advantages(baseline="pool").refuse_meaningless(total, PLAN)
    with pytest.raises(ValueError, match=r"baseline: pool .*plan\.regenerate"):
        Advantages(baseline="pool").refuse_meaningless(raw, Plan(pool=96, keep=24, regenerate=48))
    with pytest.raises(ValueError, match=r"spread: .*got 0"):
        Advantages(spread=0.0)
    with pytest.raises(ValueError, match=r"clip: .*got 0"):
        Advantages(clip=0.0)
    Advantages(spread=0.5, baseline="pool").refuse_meaningless(raw, PLAN)
    Advantages(spread="group").refuse_meaningless(total, PLAN)
