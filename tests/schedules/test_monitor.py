"""Laws of the flow and of its rate of change."""

import pytest
import torch

from lightning_diff.denoiser import Denoiser
from lightning_diff.nets import MLP
from lightning_diff.oracle import Gaussian, GaussianMixture
from lightning_diff.samplers.guidance import guided
from lightning_diff.schedules.monitor import flow, monitor


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def mixture():
    return GaussianMixture(torch.tensor([0.3, 0.5, 0.2]), normal(3, 2, seed=1), torch.tensor([0.5, 0.1, 0.6]))


@pytest.mark.parametrize("sigma", [torch.tensor(0.3), torch.tensor([0.002, 0.1, 1.0, 9.0, 80.0])])
@pytest.mark.parametrize("derivative", ["jvp", "difference"])
def test_closed_form_of_unit_variance(sigma, derivative):
    """F = -s x / (1 + s^2) and Q = x / (1 + s^2)^2 (ART, its one-dimensional example)."""
    x = (1 + sigma.double() ** 2).sqrt().reshape(-1, 1) * normal(5, 3)
    s = sigma.double().reshape(-1, 1)
    F, Q = monitor(Gaussian(torch.zeros(3, dtype=torch.float64), 1.0), x, sigma.double(), derivative)
    torch.testing.assert_close(F, -s * x / (1 + s**2), rtol=1e-12, atol=1e-12)
    tolerance = 1e-9 if derivative == "jvp" else 1e-5
    torch.testing.assert_close(Q, x / (1 + s**2) ** 2, rtol=tolerance, atol=1e-12)


def test_the_product_is_the_difference(mixture):
    sigma = torch.tensor([0.01, 0.3, 2.0, 40.0], dtype=torch.float64)
    x = sigma[:, None] * normal(4, 2)
    F, Q = monitor(mixture, x, sigma)
    also_F, difference = monitor(mixture, x, sigma, "difference")
    assert torch.equal(F, also_F)
    assert torch.equal(F, flow(mixture, x, sigma))
    assert (Q - difference).norm() < 1e-5 * Q.norm()


def test_an_euler_step_loses_half_h_squared_times_it(mixture):
    """What the surrogate of the grid is built on, against the exact trajectory."""
    sigma, h = torch.tensor(1.0, dtype=torch.float64), 1e-3
    x = normal(8, 2, seed=3)
    F, Q = monitor(mixture, x, sigma)
    fine = x
    for k in range(100):  # Heun's midpoint twin: far finer than the step that is judged
        s = sigma - h * k / 100
        half = fine + h / 200 * flow(mixture, fine, s)
        fine = fine + h / 100 * flow(mixture, half, s - h / 200)
    torch.testing.assert_close(fine - (x + h * F), h**2 / 2 * Q, rtol=1e-2, atol=1e-9)


def test_labels_and_guidance_are_part_of_the_flow():
    torch.manual_seed(0)
    denoiser = Denoiser(MLP((2,), 3, width=16, depth=1)).double()
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    label, sigma = torch.tensor([0, 1, 2]), torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    denoise = guided(denoiser, label, scale=2.0, interval=(0.5, 5.0))
    x = sigma[:, None] * normal(3, 2)
    with torch.no_grad():
        _, Q = monitor(denoise, x, sigma)
        _, difference = monitor(denoise, x, sigma, "difference")
        _, plain = monitor(guided(denoiser, label), x, sigma)
    assert (Q - difference).norm() < 1e-5 * Q.norm()
    assert torch.equal(Q[::2], plain[::2])
    assert not torch.allclose(Q[1], plain[1])


def test_float32_keeps_its_type_and_its_difference_is_usable(mixture):
    sigma = torch.tensor([0.05, 0.5, 20.0])
    x = sigma[:, None] * normal(3, 2).float()
    F, Q = monitor(mixture, x, sigma)
    _, difference = monitor(mixture, x, sigma, "difference")
    assert F.dtype == Q.dtype == torch.float32
    assert ((Q - difference).norm(dim=1) < 2e-2 * Q.norm(dim=1)).all()


def test_gradients_flow_through_the_flow_alone(mixture):
    x = normal(2, 2).requires_grad_()
    F, Q = monitor(mixture, x, torch.tensor(1.0))
    assert F.requires_grad
    assert not Q.requires_grad


def test_bad_arguments_are_named(mixture):
    x, sigma = normal(2, 2), torch.tensor(1.0)
    with pytest.raises(ValueError, match="'jvp' or 'difference'"):
        monitor(mixture, x, sigma, "exact")
    with pytest.raises(ValueError, match="between 0 and 1"):
        monitor(mixture, x, sigma, "difference", step=2.0)
