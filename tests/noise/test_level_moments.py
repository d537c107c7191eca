import pytest
import torch

from lightning_diff.noise.moments import LevelMoments


def moments(**options):
    return LevelMoments(
        **{"bins": 8, "low": -4.0, "high": 4.0, "beta": 0.9, "smoothing": 1.0, "min_count": 8.0, **options}
    )


def steps(number=7, n=20):
    return [(4 * torch.randn(n, dtype=torch.float64), torch.rand(n, dtype=torch.float64)) for _ in range(number)]


def test_steps_taken_in_together_count_as_one_by_one():
    """And both are the definition: a bin's sums decay at each step that visits it, and at no other."""
    together, apart = moments(), moments()
    expected = torch.zeros(3, 8, dtype=torch.float64)
    for log_snr, value in steps():
        together.update(log_snr, value)
        apart.update(log_snr, value)
        apart.flush()
        for b in range(8):
            inside = (log_snr + 4).floor().clamp(0, 7) == b
            if inside.any():
                v = value[inside]
                expected[:, b] = 0.9 * expected[:, b] + torch.stack([inside.sum(), v.sum(), (v**2).sum()])
    together.flush()
    torch.testing.assert_close(together.sums, expected)
    torch.testing.assert_close(apart.sums, expected)


def test_decayed_moments_are_unbiased_from_the_first_step():
    one = moments()
    level = torch.zeros(20, dtype=torch.float64)
    value = torch.rand(20, dtype=torch.float64)
    one.update(level, value)
    one.flush()
    assert float(one.mean[4]) == pytest.approx(float(value.mean()))
    assert float(one.variance[4]) == pytest.approx(float(value.var(correction=0)))


def test_values_that_are_not_finite_are_left_out():
    clean, dirty = moments(), moments()
    level, value = torch.linspace(-4, 4, 10), torch.rand(10)
    clean.update(level[:8], value[:8])
    value[8:] = torch.tensor([torch.nan, torch.inf])
    dirty.update(level, value)
    clean.flush()
    dirty.flush()
    torch.testing.assert_close(clean.sums, dirty.sums)


def test_the_queue_is_part_of_the_state():
    whole, part = moments(), moments()
    run = steps()
    for step in run[:3]:
        whole.update(*step)
        part.update(*step)
    copy = moments()
    copy.load_state_dict(part.state_dict())
    for step in run[3:]:
        whole.update(*step)
        copy.update(*step)
    whole.flush()
    copy.flush()
    assert torch.equal(whole.sums, copy.sums)


def test_a_steps_size_may_change():
    one = moments()
    for n in (20, 30):
        one.update(*steps(1, n)[0])
    one.flush()
    assert float(one.count.sum()) > 40


def test_relative_is_zero_where_nothing_is_known_and_on_average():
    one = moments(low=-8.0, high=8.0, bins=16, smoothing=0.5)
    level = torch.linspace(-3.9, 3.9, 4000, dtype=torch.float64)
    one.update(level, level.exp())
    one.flush()
    share = one.count / one.count.sum()
    relative = one.relative(one.mean, share)
    assert relative[[0, 1, 14, 15]].abs().max() < 1e-5
    assert float((share * relative).sum()) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(relative[5:11].diff(), torch.ones(5, dtype=torch.float64), rtol=0.01, atol=0)


@pytest.mark.parametrize("bad", [{"bins": 1}, {"low": 4.0}, {"beta": 1.0}, {"smoothing": 0.0}, {"min_count": 0.0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="need"):
        moments(**bad)


def test_a_queue_loaded_before_the_module_moves_is_taken_in_where_the_module_is():
    """As when a run resumes on a GPU: the device "meta" stands in for one."""
    before, after = moments(), moments()
    (log_snr, value), (more_log_snr, more_value) = steps(2)
    before.update(log_snr, value)
    after.load_state_dict(before.state_dict())
    after.to("meta")
    after.update(more_log_snr.to("meta"), more_value.to("meta"))
    after.flush()
    assert after.sums.device.type == "meta"
