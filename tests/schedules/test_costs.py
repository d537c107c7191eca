"""Laws of a single step's error."""

import pytest
import torch

from lightning_diff.foundation.errors import UserError
from lightning_diff.oracle import Gaussian, GaussianMixture
from lightning_diff.samplers import ODE_SOLVERS, Node
from lightning_diff.schedules.costs import heun_step, local_error, reference
from lightning_diff.schedules.monitor import monitor


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.fixture
def mixture():
    return GaussianMixture(torch.tensor([0.3, 0.5, 0.2]), normal(3, 2, seed=1), torch.tensor([0.5, 0.3, 0.6]))


def slope(mixture, solver, nodes, widths=(0.08, 0.04, 0.02), fine=64):
    """How fast the error of a step falls with its width h, as a power, with so many nodes of the past in steps of h.

    fine: Heun steps of what stands for the exact trajectory, to each step of the solver.
    """
    sigma, start, errors = level(1.0), normal(64, 2), []
    for h in widths:
        past, x = [], start
        for k in range(nodes * fine):  # up the trajectory
            x = heun_step(mixture, x, sigma + k * h / fine, sigma + (k + 1) * h / fine)
            if (k + 1) % fine == 0:
                at = sigma + (k + 1) / fine * h
                past.append(Node(at, x, mixture(x, at)))
        errors.append(local_error(mixture, start, sigma, sigma - h, solver, past=past, substeps=fine).error.mean())
    return float(torch.stack(errors).log2().diff().neg()[-1])


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_with_one_node_of_the_past_its_order_is_that_of_the_two_step_form(mixture, solver):
    assert slope(mixture, solver, 1) == pytest.approx(ODE_SOLVERS[solver].two_step_order + 1, abs=0.15)


@pytest.mark.whole
@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_with_the_samplers_own_past_its_order_is_the_samplers(mixture, solver):
    order = 4 if solver == "ipndm" else ODE_SOLVERS[solver].order  # whose weights are right for these, equal steps
    found = slope(mixture, solver, ODE_SOLVERS[solver].keeps, (0.08, 0.04), 256)
    assert found == pytest.approx(order + 1, abs=0.3)


def test_eulers_is_the_monitor(mixture):
    x, sigma, h = normal(16, 2), level(0.7), 1e-3
    error = local_error(mixture, x, sigma, sigma - h, "euler").error
    _, Q = monitor(mixture, x, sigma)
    torch.testing.assert_close(error, h**2 / 2 * Q.norm(dim=1), rtol=1e-2, atol=0)


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_each_sample_may_have_its_own_levels(mixture, solver):
    sigma, sigma_next = level([9.0, 1.0, 0.2]), level([4.0, 0.5, 0.0])
    x = sigma[:, None] * normal(3, 2)
    past = [Node(k * sigma, k * x, mixture(k * x, k * sigma)) for k in (2, 3)]
    together = local_error(mixture, x, sigma, sigma_next, solver, past=past)
    for i in range(3):
        own = [Node(node.sigma[i], node.x[i : i + 1], node.denoised[i : i + 1]) for node in past]
        alone = local_error(mixture, x[i : i + 1], sigma[i], sigma_next[i], solver, past=own)
        torch.testing.assert_close(together.error[i : i + 1], alone.error, rtol=1e-9, atol=1e-12)
        assert torch.equal(together.node.x, x)


def test_the_fine_solution_is_the_gaussians():
    gaussian, x = Gaussian(torch.zeros(2, dtype=torch.float64), 0.5), 5 * normal(8, 2)
    for sigma_next in (level(1.0), level(0.0)):
        exact = gaussian.ode_solution(x, level(5.0), sigma_next)
        errors = [(reference(gaussian, x, level(5.0), sigma_next, n) - exact).norm() for n in (4, 32)]
        assert errors[1] < errors[0] / 20
        assert errors[1] < 2e-2


def test_bad_arguments_are_named(mixture):
    x, sigma = normal(2, 2), level(1.0)
    with pytest.raises(UserError, match=r"'rk4'.*euler, heun"):
        local_error(mixture, x, sigma, sigma / 2, "rk4")
    with pytest.raises(ValueError, match="one substep"):
        local_error(mixture, x, sigma, sigma / 2, substeps=0)
