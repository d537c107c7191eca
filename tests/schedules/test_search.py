"""Laws of the learned grids, ours and the rivals'."""

import itertools

import pytest
import torch

from lightning_diff import samplers, schedules
from lightning_diff.oracle import Gaussian, GaussianMixture
from lightning_diff.schedules.ays import _distances, ays
from lightning_diff.schedules.gits import cheapest, gits
from lightning_diff.schedules.optimised import optimised
from lightning_diff.schedules.search import LEARNED, METHODS
from lightning_diff.schedules.trajectories import path


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def mixture():
    means = torch.tensor([[-1.0, 0.3], [0.2, -0.5], [1.0, 0.4]], dtype=torch.float64)
    stds = torch.tensor([0.1, 0.05, 0.2], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.3, 0.4, 0.3]), means, stds, labels=torch.tensor([0, 1, 1]))


@pytest.fixture(scope="module")
def error(mixture):
    """error(grid, solver): root mean squared distance of the samples from the trajectories' exact ends, on fresh noise."""
    x = 80 * normal(200, 2, seed=9)
    end = mixture.ode_end(x, torch.tensor(80.0))
    return lambda sigmas, solver="heun": (samplers.SOLVERS[solver](mixture, x, sigmas) - end).square().mean().sqrt()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_all_methods_make_grids_of_one_kind(mixture, name, n):
    options = {"iterations": 4, "teacher": 8} if name == "optimised" else {}
    labels = torch.tensor([0, 1, 0, 1, 1, 1])
    sigmas = METHODS[name](mixture, normal(6, 2), n, 0.002, 80.0, solver="heun", labels=labels, batch=4, **options)
    assert sigmas.shape == (n + 1,)
    assert sigmas.dtype == torch.float64
    assert (sigmas[0], sigmas[-1]) == (80, 0)
    assert (sigmas.diff() < 0).all()
    assert not sigmas.requires_grad


@pytest.mark.whole
@pytest.mark.parametrize("name", LEARNED)
def test_labels_count(mixture, name):
    """Each row has its own; a batch's size changes nothing, and other labels do."""
    options = {"iterations": 0, "teacher": 8} if name == "optimised" else {}
    if name == "ays":
        pytest.skip("its paths of noise are drawn batch by batch")
    noise, labels = normal(8, 2), torch.tensor([0, 0, 0, 0, 0, 0, 0, 1])

    def grid(labels, batch):
        return METHODS[name](mixture, noise, 6, 0.01, 10.0, solver="heun", labels=labels, batch=batch, **options)

    torch.testing.assert_close(grid(labels, 8), grid(labels, 3), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(grid(labels, 8), grid(1 - labels, 8), rtol=1e-3)


@pytest.mark.parametrize(("solver", "gain"), [("heun", 0.7), ("unipc", 0.8), ("ipndm", 0.95)])
def test_descent_finds_a_better_grid_than_it_starts_from(mixture, error, solver, gain):
    noise = normal(128, 2)
    start = schedules.log_snr(6)[[0, 1, 2, 3, 4, 6]]
    found = optimised(mixture, noise, 5, solver=solver, start=start, teacher=32, iterations=30, batch=128)
    assert error(found, solver) < gain * error(start, solver)
    assert optimised(mixture, noise, 5, solver=solver, start=start, teacher=8, iterations=0).tolist() == start.tolist()


def test_descent_follows_the_distance_that_it_is_given(mixture):
    """Whatever its scale, and one for each sample or for all; of one coordinate alone it is another distance."""
    noise, options = normal(64, 2), {"solver": "euler", "teacher": 16, "iterations": 10, "batch": 64}
    plain = optimised(mixture, noise, 4, **options)
    scaled = optimised(mixture, noise, 4, distance=lambda x, end: 7 * (x - end).square().mean(1), **options)
    other = optimised(mixture, noise, 4, distance=lambda x, end: (x - end)[:, 0].square().mean(), **options)
    torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=0)
    assert not torch.allclose(other, plain, rtol=1e-3)


def test_descent_leaves_the_model_alone():
    denoiser = Gaussian(torch.zeros(2), 1.0).denoiser()
    denoiser.register_parameter("weight", torch.nn.Parameter(torch.ones(())))
    optimised(denoiser, normal(4, 2).float(), 3, iterations=2, teacher=4)
    assert denoiser.weight.grad is None


def test_cheapest_is_the_least_of_all():
    costs = normal(8, 8).abs()
    for n, coefficient in itertools.product((1, 2, 3, 7), (1.0, 1.3)):
        ways = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), n - 1)]
        total = [sum(coefficient**k * costs[i, j] for k, (i, j) in enumerate(itertools.pairwise(way))) for way in ways]
        best = ways[int(torch.stack(total).argmin())]
        assert tuple(cheapest(costs, n, coefficient)) == best


def test_gits_has_no_cost_on_straight_trajectories_and_bends_to_curved_ones(mixture, error):
    found = gits(mixture, normal(64, 2), 5)
    assert error(found, "euler") < error(schedules.karras(5), "euler")


def test_the_bounds_distances_of_a_gaussian():
    """D of variance c^2 is a martingale along the path of noise: E |D - D_i|^2 = c^4 (1 / (c^2 + s^2) - 1 / (c^2 + s_i^2))."""
    variance, levels = 0.25, torch.logspace(1, -2, 7, dtype=torch.float64)
    gaussian = Gaussian(torch.zeros(1, dtype=torch.float64), variance)
    found = _distances(gaussian, normal(4000, 1), levels, None, 0, 4000, False)
    inverse = variance**2 / (variance + levels**2)
    torch.testing.assert_close(found, (inverse[:, None] - inverse).abs(), rtol=0.1, atol=1e-6)


def test_a_path_is_on_the_trajectory():
    gaussian, x = Gaussian(torch.zeros(2, dtype=torch.float64), 1.0), 3 * normal(4, 2)
    points = path(gaussian, x, schedules.karras(200, 0.01, 3.0))
    for node in points[::50]:
        exact = gaussian.ode_solution(x, torch.tensor(3.0), node.sigma)
        torch.testing.assert_close(node.x, exact, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(node.denoised, gaussian(node.x, node.sigma))
    assert torch.equal(points[-1].denoised, points[-1].x)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda d, z: gits(d, z, 9, levels=8), "1 to 8 steps"),
        (lambda d, z: gits(d, z, 2, batch=0), "batch must be"),
        (lambda d, z: ays(d, z, 3, sigma_min=0.0), "sigma_min"),
        (lambda d, z: optimised(d, z, 0), "at least one step"),
        (lambda d, z: optimised(d, z, 3, start=schedules.karras(4)), "4 steps, but n=3"),
    ],
)
def test_bad_arguments_are_named(mixture, make, word):
    with pytest.raises(ValueError, match=word):
        make(mixture, normal(2, 2))
