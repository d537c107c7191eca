"""Regression onto the ends of sampling paths."""

import torch

from lightning_diff.denoiser import Denoiser
from lightning_diff.objectives import path_regression_loss, teacher_paths
from lightning_diff.oracle import Gaussian, GaussianMixture
from lightning_diff.samplers import SOLVERS

SIGMAS = [80.0, 20.0, 5.0, 1.0, 0.2, 0.02]


def mixture() -> GaussianMixture:
    means = torch.tensor([[1.0, 0.0], [-0.5, 0.8]], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.3, 0.7]), means, 0.3, labels=torch.tensor([0, 1]))


def test_a_path_ends_at_the_sampler_s_sample_and_its_points_are_on_the_way():
    exact, noise = mixture(), torch.randn(7, 2, dtype=torch.float64)
    label = torch.arange(7) % 2
    denoise = lambda x, sigma: exact(x, sigma, label)  # noqa: E731
    grid = torch.tensor([*SIGMAS, 0.0], dtype=torch.float64)
    for solver in ("dpmpp_2m", "heun", "euler"):
        paths = teacher_paths(denoise, noise, SIGMAS, solver)
        assert paths.points.shape == (6, 7, 2)
        torch.testing.assert_close(paths.points[0], 80 * noise)
        torch.testing.assert_close(paths.ends, SOLVERS[solver](denoise, 80 * noise, grid), rtol=0, atol=1e-12)


def test_all_points_of_a_fine_path_have_the_exact_end_of_the_ode_and_the_exact_function_has_no_loss():
    exact = Gaussian(torch.tensor([0.4, -1.0], dtype=torch.float64), torch.tensor([0.5, 0.02], dtype=torch.float64))
    sigmas = torch.logspace(1.9, -3, 400, dtype=torch.float64).tolist()
    paths = teacher_paths(exact, torch.randn(5, 2, dtype=torch.float64), sigmas)
    for sigma, points in list(zip(sigmas, paths.points, strict=True))[::57]:
        level = torch.full((5,), sigma, dtype=torch.float64)
        torch.testing.assert_close(exact.ode_end(points, level), paths.ends, rtol=0, atol=2e-4)
        assert (path_regression_loss(exact.ode_end, points, level, paths.ends) < 1e-7).all()
        assert sigma < 0.1 or (path_regression_loss(exact, points, level, paths.ends) > 1e-7).any()  # the denoiser's


def test_the_loss_is_the_mean_over_dimensions_of_the_squared_error_of_d():
    torch.manual_seed(1)
    layer = torch.nn.Linear(6, 6).double()

    class Net(torch.nn.Module):
        def forward(self, x, c_noise, label=None):
            return layer(x.flatten(1)).reshape(x.shape) + c_noise.reshape(-1, 1, 1)

    denoiser = Denoiser(Net(), 0.5)
    x, end = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.3, 4.0, 80.0], dtype=torch.float64)
    loss = path_regression_loss(denoiser, x, sigma, end)
    torch.testing.assert_close(loss, ((denoiser(x, sigma) - end) ** 2).mean((1, 2)))
    (gradient,) = torch.autograd.grad(loss.sum(), layer.bias)
    assert gradient.abs().min() > 0
