import pytest
import torch

from lightning_diff.statistics import NoiseLevelStatistics, merge, moments_by_bin


def samples(n=5000):
    generator = torch.Generator().manual_seed(1)
    log_snr = torch.randn(n, generator=generator) * 5
    loss = 1e4 + torch.rand(n, generator=generator).double()  # a large mean is what cancels in E[x^2] - E[x]^2
    return log_snr, loss


def test_moments_equal_those_of_each_bin_taken_alone():
    log_snr, loss = samples()
    metric = NoiseLevelStatistics(bins=8, low=-4.0, high=4.0)
    for part in range(0, 5000, 700):
        metric.update(log_snr[part : part + 700], loss[part : part + 700])
    count, mean, variance = metric.compute()
    index = ((log_snr + 4) / 1).floor().long().clamp(0, 7)
    for b in range(8):
        here = loss[index == b]
        assert count[b] == len(here)
        assert torch.isclose(mean[b], here.mean(), rtol=1e-13)
        assert torch.isclose(variance[b], here.var(), rtol=1e-6)


def test_merging_disjoint_parts_equals_one_pass():
    index, value = torch.randint(0, 4, (300,)), torch.randn(300, dtype=torch.float64)
    weight = torch.ones_like(value)
    whole = moments_by_bin(index, value, weight, 4)
    parts = [moments_by_bin(index[s], value[s], weight[s], 4) for s in (slice(0, 10), slice(10, 299), slice(299, 300))]
    merged = merge(merge(parts[0], parts[1]), parts[2])
    for a, b in zip(whole, merged, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_empty_bins_stay_unknown_and_bad_losses_are_left_out():
    metric = NoiseLevelStatistics(bins=4, low=0.0, high=4.0)
    metric.update(torch.tensor([0.5, 1.5, 1.6, 1.7]), torch.tensor([1.0, 2.0, 4.0, float("nan")]))
    moments = metric.compute()
    assert moments.count.tolist() == [1, 2, 0, 0]
    assert moments.mean[:2].tolist() == [1.0, 3.0]
    assert moments.mean[2:].isnan().all()
    assert moments.variance[1] == 2.0
    assert moments.variance[0].isnan()
    assert moments.standard_error[1] == 1.0
    assert torch.isclose(moments.coefficient_of_variation[1], torch.tensor(2.0**0.5 / 3, dtype=torch.float64))


def test_levels_outside_the_range_count_at_the_ends():
    metric = NoiseLevelStatistics(bins=2, low=-1.0, high=1.0)
    metric.update(torch.tensor([-50.0, 50.0, 1.0]), torch.ones(3))
    assert metric.compute().count.tolist() == [1, 2]


def test_an_impossible_range_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        NoiseLevelStatistics(low=1.0, high=1.0)
