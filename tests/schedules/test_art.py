"""Laws of ART's closed form."""

import pytest
import torch

from lightning_diff import samplers, schedules
from lightning_diff.oracle import Gaussian, GaussianMixture
from lightning_diff.schedules.art import Estimate, art, estimate


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def gaussian():
    return Gaussian(torch.zeros(1, dtype=torch.float64), 1.0)


@pytest.fixture(scope="module")
def of_gaussian(gaussian):
    return estimate(gaussian, normal(64, 1), 0.002, 3.0, nodes=128)


def test_density_of_the_gaussian(of_gaussian):
    """|Q| = |x| / (1 + s^2)^2 with |x| as sqrt(1 + s^2), so theta^-1 goes as (1 + s^2)^(-3/4)."""
    s = of_gaussian.sigmas
    rho = of_gaussian.density(s)
    torch.testing.assert_close(rho / rho[-1], (1 + s**2) ** -0.75, rtol=2e-3, atol=0)


@pytest.mark.parametrize(("n", "distance"), [(2, 0.349), (5, 0.149), (10, 0.077), (20, 0.039), (50, 0.016)])
def test_the_exact_table_of_the_gaussian(of_gaussian, n, distance):
    """From N(0, 10) at T = 3 Euler's steps end in a Gaussian of standard deviation sqrt(10) prod(1 - h s / (1 + s^2))."""
    sigmas = of_gaussian.grid(n)
    s, h = sigmas[:-1], -sigmas.diff()
    end = 10**0.5 * (1 - h * s / (1 + s**2)).prod()
    assert (1 - end).abs() == pytest.approx(distance, abs=1e-3)


def test_grids_of_one_estimate_are_nested(of_gaussian):
    coarse, fine = of_gaussian.grid(7), of_gaussian.grid(14)
    assert coarse.shape == (8,)
    assert coarse.dtype == torch.float64
    assert (coarse[0], coarse[-1]) == (3, 0)
    assert (coarse.diff() < 0).all()
    torch.testing.assert_close(fine[::2], coarse, rtol=1e-9, atol=1e-9)
    assert of_gaussian.grid(1).tolist() == [3, 0]


def test_every_step_loses_the_same(gaussian, of_gaussian):
    sigmas = of_gaussian.grid(200)
    s, h = (sigmas[1:-1] + sigmas[2:]) / 2, -sigmas.diff()[1:]
    loss = h**2 * (1 + s**2) ** -1.5
    assert loss.std() / loss.mean() < 0.02


def test_merging_parts_is_measuring_the_whole(gaussian):
    noise, options = normal(24, 1), {"sigma_max": 3.0, "nodes": 16}
    whole = estimate(gaussian, noise, batch=7, **options)
    parts = estimate(gaussian, noise[:8], **options).merged(estimate(gaussian, noise[8:], **options))
    assert parts.trajectories == whole.trajectories == 24
    torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="merged"):
        whole.merged(estimate(gaussian, noise, solver="heun", **options))


def test_the_difference_gives_the_same_grid(gaussian):
    noise = normal(32, 1)
    exact, difference = (art(gaussian, noise, 8, derivative=name, nodes=32) for name in ("jvp", "difference"))
    torch.testing.assert_close(exact, difference, rtol=1e-4, atol=0)


@pytest.fixture(scope="module")
def mixture():
    means = torch.tensor([[-1.0], [0.2], [1.0]], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.3, 0.4, 0.3]), means, torch.tensor([0.1, 0.05, 0.2], dtype=torch.float64))


@pytest.fixture(scope="module")
def distance(mixture):
    """distance(grid): W2 of Heun's samples, in one dimension that of the sorted samples."""
    n = 1000
    z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]
    data = samplers.heun(mixture, 80 * z, schedules.karras(400, 1e-4))[:, 0].sort().values
    return lambda sigmas: (samplers.heun(mixture, 80 * z, sigmas)[:, 0].sort().values - data).square().mean().sqrt()


def test_of_heun_it_beats_eulers_and_edms_under_heun(mixture, distance):
    eulers, heuns = (estimate(mixture, normal(256, 1), solver=solver) for solver in ("euler", "heun"))
    for n in (2, 3, 5, 7, 10):
        of_heun, of_euler = distance(heuns.grid(n)), distance(eulers.grid(n))
        assert of_heun < 0.95 * of_euler
        assert of_heun < 0.7 * distance(schedules.karras(n))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda d, z: art(d, z, 0, nodes=8), "at least one step"),
        (lambda d, z: art(d, z, 3, nodes=3), "8 nodes"),
        (lambda d, z: art(d, z, 3, sigma_min=0.0), "sigma_min"),
    ],
)
def test_bad_arguments_are_named(gaussian, make, word):
    with pytest.raises(ValueError, match=word):
        make(gaussian, normal(2, 1))


def test_a_noise_level_without_loss_is_no_obstacle():
    """Straight trajectories: nothing to follow, any grid will do, and one comes."""
    sigmas = torch.logspace(-2, 1, 20, dtype=torch.float64).flip(0)
    found = Estimate(sigmas, torch.zeros(20, dtype=torch.float64), 1, 8, 80.0)
    assert (found.grid(5).diff() < 0).all()
