import pytest
import torch

from lightning_diff.noise import LogNormal, sigma_to_log_snr, stratified
from lightning_diff.weighting import MeasuredVariance, Uniform

LAW = LogNormal(-1.2, 1.2)


def levels(n):
    return sigma_to_log_snr(LAW.icdf(stratified(n)))


def spread(log_snr):
    """A loss whose standard deviation runs over more than a decade with the level, as a trained model's does."""
    return 0.02 + 0.05 * ((log_snr - 2) / 4) ** 2


def trained(steps=600, batch=256, **options):
    weighting = MeasuredVariance(warmup=1000, **options)
    weighting.prepare(levels(4096))
    for _ in range(steps):
        log_snr = levels(batch)
        weighting.update(log_snr, 1 + spread(log_snr) * torch.randn(batch, dtype=torch.float64))
    return weighting


def test_uniform_is_one():
    assert torch.equal(Uniform()(torch.tensor([-3.0, 8.0]), torch.tensor([0.1, 2.0])), torch.ones(2))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_measured_variance_weights_have_mean_one_under_the_noise_law(gamma):
    weighting = trained(gamma=gamma)
    weight = weighting(levels(100_000), torch.ones(100_000))
    assert abs(weight.mean() - 1) < 0.01
    assert (weight.std() < 1e-6) == (gamma == 0)


def test_gamma_one_makes_the_weighted_spread_flat():
    weighting = trained(steps=2000, gamma=1.0, clip=20.0)
    log_snr = torch.linspace(-2, 6, 30, dtype=torch.float64)  # within 1.7 standard deviations of the law
    flat = weighting(log_snr, torch.ones_like(log_snr)) * spread(log_snr)
    assert flat.max() / flat.min() < 1.2


def test_gamma_half_is_the_root_of_gamma_one():
    log_snr = torch.linspace(-2, 6, 30, dtype=torch.float64)
    one, half = (trained(gamma=gamma, clip=20.0)(log_snr, torch.ones_like(log_snr)) for gamma in (1.0, 0.5))
    ratio = half**2 / one
    assert ratio.max() / ratio.min() < 1.1


def test_levels_never_visited_get_the_typical_weight_and_clipping_holds():
    weighting = trained(gamma=1.0, clip=2.0)
    weight = weighting(torch.linspace(-10, 10, 200, dtype=torch.float64), torch.ones(200, dtype=torch.float64))
    assert weight.max() / weight.min() <= 4.0 + 1e-9
    centre, far = weighting(torch.tensor([2.0, -9.9]), torch.ones(2))
    assert far < centre


def test_the_state_is_all_there_is():
    weighting, copy = trained(steps=95), MeasuredVariance(warmup=1000)
    copy.prepare(weighting.levels)
    copy.load_state_dict(weighting.state_dict())
    log_snr = levels(256)
    for each in (weighting, copy):
        for _ in range(20):
            each.update(log_snr, spread(log_snr))
    assert torch.equal(weighting.log_weight, copy.log_weight)


def test_warm_up_starts_at_weight_one():
    weighting = MeasuredVariance(warmup=10_000_000)
    weighting.prepare(levels(4096))
    for _ in range(20):
        log_snr = levels(256)
        weighting.update(log_snr, spread(log_snr) * torch.randn(256, dtype=torch.float64))
    assert (weighting(levels(512), torch.ones(512)) - 1).abs().max() < 0.01


@pytest.mark.parametrize("bad", [{"gamma": 1.5}, {"bins": 1}, {"clip": 1.0}, {"beta": 1.0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="MeasuredVariance"):
        MeasuredVariance(**bad)
