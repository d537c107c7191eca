import pytest
import torch

from lightning_diff.noise import LogNormal, log_snr_to_sigma, sigma_to_log_snr, stratified
from lightning_diff.objectives import denoising_loss
from lightning_diff.oracle import Gaussian
from lightning_diff.weighting import MeasuredVariance

LAW = LogNormal(-1.2, 1.2)


def levels(n):
    return sigma_to_log_snr(LAW.icdf(stratified(n)))


def spread(log_snr):
    """A loss whose standard deviation runs over more than a decade with the level, as a trained model's does."""
    return 0.02 + 0.05 * ((log_snr - 2) / 4) ** 2


def trained(steps=400, batch=256, **options):
    weighting = MeasuredVariance(**{"warmup": 1000, "min_count": 16.0, **options})
    weighting.prepare(levels(4096))
    for _ in range(steps):
        log_snr = levels(batch)
        weighting.update(log_snr, 1 + spread(log_snr) * torch.randn(batch, dtype=torch.float64))
    return weighting


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_weights_have_mean_one_under_the_noise_law(gamma):
    weighting = trained(steps=100, gamma=gamma)
    weight = weighting(levels(100_000), torch.ones(100_000))
    assert abs(weight.mean() - 1) < 1e-3
    assert (weight.std() < 1e-6) == (gamma == 0)


def test_gamma_one_makes_the_spread_of_a_real_weighted_loss_flat():
    """The exact denoiser of Gaussian data, whose loss is known at every level, over 2,000 steps of EDM's law: the standard
    deviation of the weighted loss differs by less than a fifth between any two levels, over the bins of log-SNR that hold at
    least 1 % of the draws each (0.5 wide: 2 standard deviations of the law to either side)."""
    torch.manual_seed(1)
    variances = torch.tensor([0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 2.0, 3.0], dtype=torch.float64)
    oracle = Gaussian(torch.zeros(8), variances)
    denoiser = oracle.denoiser(0.5)
    weighting = MeasuredVariance(gamma=1.0)
    weighting.prepare(levels(4096))
    for _ in range(200):  # ten steps of 128 at a time: the denoiser does not change
        sigma = torch.stack([LAW.icdf(stratified(128)) for _ in range(10)])
        x0 = oracle.sample(1280)
        loss = denoising_loss(denoiser, x0, sigma.flatten().float(), torch.randn_like(x0)).reshape(10, 128)
        for one, its in zip(sigma, loss, strict=True):
            weighting.update(sigma_to_log_snr(one).float(), its)
    share = weighting.share
    low, high, bins = -10.0, 10.0, 40
    centres = (low + (high - low) / bins * (torch.arange(bins, dtype=torch.float64) + 0.5))[share > 0.01]
    assert float(share[share > 0.01].sum()) > 0.9
    std = oracle.denoising_loss(log_snr_to_sigma(centres))[1].sqrt()
    assert std.max() / std.min() > 4  # there was something to flatten
    flat = weighting(centres, torch.ones_like(centres)) * std
    assert flat.max() / flat.min() < 1.2
    assert abs(weighting(levels(100_000), torch.ones(100_000)).mean() - 1) < 0.01


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_weights_go_with_the_power_gamma_of_those_at_gamma_one(gamma):
    log_snr = torch.linspace(-2, 4, 30, dtype=torch.float64)
    weights = []
    for power in (1.0, gamma):
        torch.manual_seed(0)
        weights.append(trained(steps=100, gamma=power, clip=200.0)(log_snr, log_snr))
    ratio = weights[1] / weights[0] ** gamma
    assert weights[0].max() / weights[0].min() > 3
    assert ratio.max() / ratio.min() < 1.02


def test_levels_never_visited_get_the_typical_weight_and_clipping_holds():
    weighting = trained(steps=100, gamma=1.0, clip=2.0)
    weight = weighting(torch.linspace(-10, 10, 200, dtype=torch.float64), torch.ones(200, dtype=torch.float64))
    assert weight.max() / weight.min() <= 4.0 + 1e-6
    centre, never = weighting(torch.tensor([2.0, -15.0]), torch.ones(2))
    assert float(never) < float(centre)
    assert float(centre) / float(never) <= 2.0 + 1e-6  # never is what a weight of 1 became by the scaling


def test_weights_do_not_lean_towards_levels_that_are_drawn_more_often():
    """The smoothing of a straight line gives that line, wherever most draws are."""
    weighting = MeasuredVariance(gamma=1.0, warmup=0, refresh=1, clip=1e6, smoothing=1.5)
    weighting.prepare(levels(4096))
    log_snr = levels(200_000)
    sign = torch.ones(200_000, dtype=torch.float64)
    sign[::2] = -1
    weighting.update(log_snr, 1 + (0.25 * log_snr).exp() * sign)
    inner = torch.arange(-4.0, 6.0, 0.5, dtype=torch.float64) + 0.25
    slope = weighting(inner, inner).log().diff() / 0.5
    assert (slope + 0.25).abs().max() < 0.02


def test_the_state_is_all_there_is():
    weighting, copy = trained(steps=95), MeasuredVariance(warmup=1000, min_count=16.0)
    copy.prepare(levels(8))  # before loading, as a resumed run does
    copy.share = weighting.share
    copy.load_state_dict(weighting.state_dict())
    log_snr = levels(256)
    for each in (weighting, copy):
        for _ in range(7):
            each.update(log_snr, spread(log_snr))
    assert torch.equal(weighting.weights, copy.weights)
    assert not torch.equal(copy.weights, torch.ones(40))


def test_warm_up_starts_at_weight_one():
    weighting = trained(steps=20, warmup=10_000_000)
    assert (weighting(levels(512), torch.ones(512)) - 1).abs().max() < 0.01
    assert (weighting(levels(512), torch.ones(512)) != 1).any()


@pytest.mark.parametrize("bad", [{"gamma": 2.5}, {"bins": 1}, {"clip": 1.0}, {"beta": 1.0}, {"refresh": 0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="MeasuredVariance: "):
        MeasuredVariance(**bad)
