"""Laws of a single step's error."""

import pytest
import torch

from lightning_diff import samplers
from lightning_diff.oracle import Gaussian, GaussianMixture
from lightning_diff.schedules.costs import ORDERS, Past, local_error, reference, step
from lightning_diff.schedules.monitor import monitor


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.fixture
def mixture():
    return GaussianMixture(torch.tensor([0.3, 0.5, 0.2]), normal(3, 2, seed=1), torch.tensor([0.5, 0.3, 0.6]))


@pytest.mark.parametrize("solver", ORDERS)
def test_its_order_is_the_solvers(mixture, solver):
    """The error falls as h^(p + 1) where the past lies as far behind as the step goes."""
    sigma, x = level(1.0), normal(64, 2)
    errors = []
    for h in (0.08, 0.04, 0.02):
        before = level(1.0 + h)
        x_before = x
        for k in range(64):  # up the trajectory
            x_before = step(mixture, x_before, sigma + h * k / 64, sigma + h * (k + 1) / 64, "heun")
        past = Past(before, x_before, mixture(x_before, before))
        errors.append(local_error(mixture, x, sigma, sigma - h, solver, past=past, substeps=64).error.mean())
    slopes = torch.stack(errors).log2().diff().neg()
    assert slopes[-1] == pytest.approx(ORDERS[solver] + 1, abs=0.15)


def test_eulers_is_the_monitor(mixture):
    x, sigma, h = normal(16, 2), level(0.7), 1e-3
    error = local_error(mixture, x, sigma, sigma - h, "euler").error
    _, Q = monitor(mixture, x, sigma)
    torch.testing.assert_close(error, h**2 / 2 * Q.norm(dim=1), rtol=1e-2, atol=0)


@pytest.mark.parametrize("solver", ORDERS)
def test_a_step_is_the_samplers(mixture, solver):
    """What the sampler hands the denoiser at its third node, from its own second one."""
    seen = []

    def denoise(x, sigma):
        seen.append((sigma.item(), x))
        return mixture(x, sigma)

    sigmas = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    options = {"order": 2} if solver in ("ipndm", "unipc") else {}
    samplers.SOLVERS[solver](denoise, 3 * normal(5, 2), sigmas, **options)
    at = dict(seen)  # the last call at a node is the one after all corrections
    if solver == "unipc":  # whose call at a node comes before the correction there
        x1 = step(mixture, at[3.0], sigmas[0], sigmas[1], solver)
        past = Past(sigmas[0], at[3.0], mixture(at[3.0], sigmas[0]))
        x2 = step(mixture, x1, sigmas[1], sigmas[2], "dpmpp_2m", past=past, denoised=mixture(at[2.0], sigmas[1]))
        torch.testing.assert_close(x2, at[1.0], rtol=1e-12, atol=1e-12)
        return
    past = Past(sigmas[0], at[3.0], mixture(at[3.0], sigmas[0]))
    torch.testing.assert_close(step(mixture, at[3.0], sigmas[0], sigmas[1], solver), at[2.0], rtol=1e-12, atol=1e-12)
    x2 = step(mixture, at[2.0], sigmas[1], sigmas[2], solver, past=past)
    torch.testing.assert_close(x2, at[1.0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ORDERS)
def test_each_sample_may_have_its_own_levels(mixture, solver):
    sigma, sigma_next = level([9.0, 1.0, 0.2]), level([4.0, 0.5, 0.0])
    x = sigma[:, None] * normal(3, 2)
    past = Past(2 * sigma, 2 * x, mixture(2 * x, 2 * sigma))
    together = local_error(mixture, x, sigma, sigma_next, solver, past=past)
    for i in range(3):
        own = Past(past.sigma[i], past.x[i : i + 1], past.denoised[i : i + 1])
        alone = local_error(mixture, x[i : i + 1], sigma[i], sigma_next[i], solver, past=own)
        torch.testing.assert_close(together.error[i : i + 1], alone.error, rtol=1e-9, atol=1e-12)
        assert torch.equal(together.past.x, x)


def test_the_fine_solution_is_the_gaussians():
    gaussian, x = Gaussian(torch.zeros(2, dtype=torch.float64), 0.5), 5 * normal(8, 2)
    for sigma_next in (level(1.0), level(0.0)):
        exact = gaussian.ode_solution(x, level(5.0), sigma_next)
        errors = [(reference(gaussian, x, level(5.0), sigma_next, n) - exact).norm() for n in (4, 32)]
        assert errors[1] < errors[0] / 20
        assert errors[1] < 2e-2


def test_bad_arguments_are_named(mixture):
    x, sigma = normal(2, 2), level(1.0)
    with pytest.raises(ValueError, match="euler, heun"):
        local_error(mixture, x, sigma, sigma / 2, "rk4")
    with pytest.raises(ValueError, match="one substep"):
        local_error(mixture, x, sigma, sigma / 2, substeps=0)
