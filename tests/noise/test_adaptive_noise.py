"""Noise laws that learn: still laws, still the same objective, and less variance."""

import math

import pytest
import torch

from lightning_diff.denoiser import Denoiser
from lightning_diff.noise import AdaptiveNoise, InfoNoise, LogNormal, LogUniform, NoiseLaw, sigma_to_log_snr, stratified
from lightning_diff.objectives import denoising_loss
from lightning_diff.oracle import Gaussian

QUICK = {"warmup": 0, "refresh": 1, "min_count": 1.0}


def taught(law, steps=30, batch=256, weight=lambda level: torch.ones_like(level)):
    """After steps of a loss that rises eightfold from clean to noisy levels."""
    for _ in range(steps):
        level = sigma_to_log_snr(law.icdf(stratified(batch)))
        law.update(level, (-0.1 * level).exp() * (0.5 + torch.rand_like(level)), weight(level))
    return law


LAWS = [
    lambda: taught(AdaptiveNoise(LogNormal(), **QUICK)),
    lambda: taught(AdaptiveNoise(LogNormal(), target="loss", mix=0.01, low=-3.0, high=5.0, bins=9, **QUICK)),
    lambda: taught(AdaptiveNoise(LogUniform(), **QUICK)),
    lambda: taught(InfoNoise(LogNormal(), **QUICK)),
    lambda: taught(InfoNoise(LogNormal(-0.4, 1.0), sigma_data=0.25, **QUICK)),
]


@pytest.mark.parametrize("make", LAWS)
def test_density_and_inverse_belong_together(make):
    """The derivative of u with respect to ln sigma is the density, and the inverse rises."""
    law = make()
    assert isinstance(law, NoiseLaw)
    u = torch.linspace(0.0005, 0.9995, 20_001, dtype=torch.float64)
    sigma = law.icdf(u)
    assert bool((sigma.diff() > 0).all())
    middle = (sigma[1:] * sigma[:-1]).sqrt()
    slope = u.diff() / sigma.log().diff()
    same_bin = law._ratio(sigma[1:]) == law._ratio(sigma[:-1])
    density = law.log_prob(middle).exp()
    assert ((slope / density - 1).abs()[same_bin] < 1e-3).all()
    assert float(same_bin.double().mean()) > 0.99
    total = (law.log_prob(sigma).exp() * torch.gradient(sigma.log())[0]).sum()
    assert float(total) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_u_gives_a_level_in_its_own_precision(dtype):
    law = LAWS[0]()
    sigma = law.icdf(torch.tensor([[1e-7, 0.5], [0.9, 1 - 1e-7]], dtype=dtype))
    assert sigma.dtype == dtype
    assert sigma.shape == (2, 2)
    assert bool(((sigma > 0) & sigma.isfinite()).all())


@pytest.mark.parametrize("law", [AdaptiveNoise, InfoNoise])
def test_before_anything_is_measured_it_is_the_base_law(law):
    u = stratified(1000)
    torch.testing.assert_close(law(LogNormal(-0.4, 1.0)).icdf(u), LogNormal(-0.4, 1.0).icdf(u))
    untaught = taught(law(LogNormal(), warmup=1_000_000_000, refresh=1), steps=3)
    torch.testing.assert_close(untaught.icdf(u), LogNormal().icdf(u), rtol=1e-4, atol=0)


@pytest.mark.parametrize("target", ["loss", "gradient"])
def test_density_goes_with_the_root_of_the_second_moment(target):
    """A known value at every level: (weight loss)^2 or weight^2 loss, and the density over the base law's is its root."""
    law = AdaptiveNoise(LogNormal(), target=target, mix=1e-6, smoothing=0.2, **QUICK)
    level = sigma_to_log_snr(LogNormal().icdf(stratified(400_000)))
    law.update(level, (0.4 * level).exp(), (-0.1 * level).exp())
    centres = torch.arange(-4.0, 6.0, 0.5, dtype=torch.float64) + 0.25
    ratio = law._ratio((-0.5 * centres).exp() * 0.5).log()
    expected = 0.3 if target == "loss" else 0.1
    assert (ratio.diff() / 0.5 - expected).abs().max() < 0.01


@pytest.mark.parametrize("target", ["loss", "gradient"])
def test_importance_undoes_the_change_of_law_and_is_bounded_by_the_mix(target):
    law = taught(AdaptiveNoise(LogNormal(), target=target, mix=0.1, **QUICK))
    sigma = law.icdf((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    importance = law.importance(sigma)
    base = LogNormal().icdf((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    assert float(importance.max()) < 10
    assert float(importance.std()) > 0.1
    for f in (torch.ones_like, torch.log, torch.tanh):
        assert float((importance * f(sigma)).mean()) == pytest.approx(float(f(base).mean()), abs=1e-4)
    torch.testing.assert_close(importance.log(), LogNormal().log_prob(sigma) - law.log_prob(sigma))


class Linear(torch.nn.Module):
    """F(x_in) = W x_in, at W = 0.3."""

    def __init__(self, d):
        super().__init__()
        self.weight = torch.nn.Parameter(0.3 * torch.eye(d, dtype=torch.float64))

    def forward(self, x, c_noise, label=None):
        return x @ self.weight.T


def exact_gradient(variances, weight, w=0.3, sigma_data=0.5):
    """E[2 weight (F - target) x_in^T] / d under EDM's law, for independent data: a diagonal matrix.

    x_in = (x0 + sigma noise) / norm and target = sin x0 / sigma_data - cos noise.
    """
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    sigma = LogNormal().icdf(u)[:, None]
    norm = (sigma**2 + sigma_data**2).sqrt()
    sin, cos = sigma / norm, sigma_data / norm
    square = (variances + sigma**2) / norm**2  # E[x_in^2]
    product = (sin * variances / sigma_data - cos * sigma) / norm  # E[target x_in]
    return (weight(sigma_to_log_snr(sigma)) * 2 * (w * square - product)).mean(0).diag() / len(variances)


def test_the_expected_gradient_stays_and_its_variance_falls():
    """Against the closed form, for a linear model on Gaussian data, under a weight by which some levels matter far more."""
    variances = torch.tensor([0.02, 0.1, 0.5, 2.0], dtype=torch.float64)
    oracle = Gaussian(torch.zeros(4, dtype=torch.float64), variances)
    model = Denoiser(Linear(4), 0.5)
    law = AdaptiveNoise(LogNormal(), mix=0.1, warmup=0, refresh=1)

    def weight(level):
        return torch.where(level > 4, 6.0, 0.3).to(level.dtype)

    def draw(law, batch):
        sigma = law.icdf(stratified(batch))
        noise = torch.randn(batch, 4, dtype=torch.float64)
        return sigma, denoising_loss(model, oracle.sample(batch), sigma, noise)

    def gradients(law, batches=400, batch=1024):
        for _ in range(batches):
            sigma, loss = draw(law, batch)
            importance = law.importance(sigma)
            objective = (importance * weight(sigma_to_log_snr(sigma)) * loss).mean()
            yield torch.autograd.grad(objective, model.net.weight)[0]

    for _ in range(50):
        sigma, loss = draw(law, 256)
        level = sigma_to_log_snr(sigma)
        law.update(level, loss.detach(), weight(level))
    adaptive, plain = (torch.stack(list(gradients(each))) for each in (law, LogNormal()))
    exact = exact_gradient(variances, weight)
    cosine = torch.nn.functional.cosine_similarity(adaptive.mean(0).flatten(), exact.flatten(), dim=0)
    assert float(cosine) > 0.999
    assert float(adaptive.mean(0).norm() / exact.norm()) == pytest.approx(1, abs=0.02)
    ratio = adaptive.var(0).sum() / plain.var(0).sum()
    assert float(ratio) < 0.7


def test_information_noise_goes_with_the_rate_over_the_weight():
    """loss / weight s / (1 + s)^2 where the gate is open, which is 3rd order in sigma below the onset."""
    law = InfoNoise(LogNormal(), mix=1e-6, smoothing=0.2, **QUICK)
    level = sigma_to_log_snr(LogNormal().icdf(stratified(400_000)))
    loss, weight = (0.05 * level).exp(), (-0.1 * level).exp()
    law.update(level, loss, weight)
    at = torch.arange(-4.0, 6.0, 0.5, dtype=torch.float64) + 0.25
    rate = (0.15 * at) + torch.nn.functional.logsigmoid(at) + torch.nn.functional.logsigmoid(-at)
    s = at.exp()
    onset = max(c for c in torch.arange(-9.75, 10.0, 0.5).tolist() if math.exp(0.05 * c) / (1 + math.exp(c)) >= 0.002)
    sigma, c = s**-0.5, math.exp(-0.5 * onset)
    gate = (sigma**3 / (sigma**3 + c**3)).log()
    density = law.log_prob(0.5 * sigma)
    difference = density - rate - gate
    # piecewise constant against the base law, so compared at the bins' centres only up to the base law's curvature
    assert (difference - difference.mean()).abs().max() < 0.05
    assert (law.importance(torch.ones(3)) == 1).all()


@pytest.mark.parametrize("law", [AdaptiveNoise, InfoNoise])
def test_the_state_is_all_there_is(law):
    options = {**QUICK, "refresh": 4}
    one, copy = taught(law(LogNormal(), **options), steps=6), law(LogNormal(), **options)
    copy.load_state_dict(one.state_dict())
    torch.manual_seed(7)
    taught(one, steps=7)
    torch.manual_seed(7)
    taught(copy, steps=7)
    assert torch.equal(one.masses, copy.masses)
    assert not torch.equal(one.masses, one.base_masses)


def test_a_loss_that_is_not_finite_teaches_nothing():
    one, other = (taught(AdaptiveNoise(LogNormal(), **QUICK), steps=1) for _ in range(2))
    other.load_state_dict(one.state_dict())
    level = torch.linspace(-3, 3, 8, dtype=torch.float64)
    loss = torch.rand(8, dtype=torch.float64)
    one.update(level[1:], loss[1:], torch.ones_like(level[1:]))
    loss[0] = torch.nan
    other.update(level, loss, torch.ones_like(level))
    torch.testing.assert_close(one.masses, other.masses)


@pytest.mark.parametrize("law", [AdaptiveNoise, InfoNoise])
@pytest.mark.parametrize("bad", [{"mix": 0.0}, {"bins": 1}, {"low": 20.0}, {"beta": 1.0}, {"sigma_data": 0.0}])
def test_impossible_settings_are_refused(law, bad):
    with pytest.raises(ValueError, match=f"{law.__name__}: need"):
        law(LogNormal(), **bad)
