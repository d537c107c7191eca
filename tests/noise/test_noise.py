import math

import pytest
import torch

from lightning_diff import noise

SIGMAS = torch.logspace(-3, 2, 50, dtype=torch.float64)


@pytest.mark.parametrize("sigma_data", [0.5, 0.752])
def test_the_three_coordinates_convert_there_and_back(sigma_data):
    for there, back in (
        (noise.sigma_to_log_snr, noise.log_snr_to_sigma),
        (noise.sigma_to_t, noise.t_to_sigma),
    ):
        assert torch.allclose(back(there(SIGMAS, sigma_data), sigma_data), SIGMAS, rtol=1e-12, atol=0)


def test_flow_matching_s_time_is_the_noisy_share_of_the_same_point():
    t = noise.sigma_to_flow_time(SIGMAS)
    assert torch.allclose(noise.flow_time_to_sigma(t), SIGMAS, rtol=1e-12, atol=0)
    assert torch.allclose((1 - t) * SIGMAS, t, rtol=1e-12, atol=0)  # (1 - t) (x0 + sigma eps) = (1 - t) x0 + t eps


def test_coordinates_at_known_places():
    half = torch.tensor(0.5, dtype=torch.float64)
    assert noise.sigma_to_log_snr(half) == 0
    assert math.isclose(noise.sigma_to_t(half), math.pi / 4)
    assert math.isclose(noise.sigma_to_t(torch.tensor(80.0, dtype=torch.float64)), 1.56455, abs_tol=1e-5)  # sCM's t_max


LAWS = [
    noise.LogNormal(-1.2, 1.2),
    noise.LogNormal(-0.4, 1.0),
    noise.LogUniform(0.01, 50.0),
    noise.Karras(0.01, 50.0),
    noise.WithLargest(noise.LogNormal(-0.4, 1.0), share=1 / 3, sigma=5.0),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_icdf_inverts_the_integral_of_the_density(law):
    """d(ln sigma)/du = 1 / p, so that finite differences of the inverse give the density back."""
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    h = 1e-6
    slope = (law.icdf(u + h).log() - law.icdf(u - h).log()) / (2 * h)
    assert torch.allclose(1 / slope, law.log_prob(law.icdf(u)).exp(), rtol=1e-6)


def test_stratified_draws_fall_one_into_each_stratum():
    u = noise.stratified(1000, torch.Generator().manual_seed(0))
    assert torch.equal((u * 1000).long(), torch.arange(1000))
    assert u.min() > 0
    assert u.max() < 1


def test_stratification_removes_the_variance_between_levels():
    """Of a function of the level alone, the batch mean's variance falls from 1/n to 1/n^3."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.stack([torch.rand(64, generator=generator, dtype=torch.float64).mean() for _ in range(200)])
    strata = torch.stack([noise.stratified(64, generator).mean() for _ in range(200)])
    assert strata.var() < plain.var() / 1000


def test_a_share_of_every_batch_is_at_the_largest_level_and_the_others_have_the_law_below_it():
    law = noise.WithLargest(noise.LogNormal(0.0, 1.0), share=0.25, sigma=1.0, band=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        levels = law.icdf(noise.stratified(64, generator)).log()
        assert int((levels > -0.1).sum()) == 16
        assert float(levels.max()) <= 0
    below = law.icdf((torch.arange(75_000, dtype=torch.float64) + 0.5) / 100_000).log()
    half_normal = torch.distributions.Normal(0.0, 1.0)
    cut = torch.tensor(-0.1, dtype=torch.float64)  # the mean of a normal below it is -density / mass
    expected = -half_normal.log_prob(cut).exp() / half_normal.cdf(cut)
    torch.testing.assert_close(below.mean(), expected, rtol=0, atol=1e-4)
    assert law.log_prob(torch.tensor([1.001])).item() == -math.inf
    total = torch.linspace(-8, 0.5, 200_001, dtype=torch.float64)
    torch.testing.assert_close(torch.trapezoid(law.log_prob(total.exp()).exp(), total).item(), 1.0, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "make", [lambda: noise.LogNormal(std=0.0), lambda: noise.LogUniform(1.0, 0.5), lambda: noise.Karras(rho=0.0)]
)
def test_impossible_laws_are_refused(make):
    with pytest.raises(ValueError, match=r"positive|0 < low < high"):
        make()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.0}, "share"),
        ({"sigma": 0.001, "law": noise.LogUniform(0.01, 50.0)}, "larger sigma"),
        ({"law": noise.InfoNoise(noise.LogNormal())}, "InfoNoise learns"),
    ],
)
def test_a_largest_level_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        noise.WithLargest(**({"law": noise.LogNormal()} | wrong))
