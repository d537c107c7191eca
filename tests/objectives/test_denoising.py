import torch
from torch import nn

from lightning_diff.denoiser import Denoiser
from lightning_diff.objectives import denoising_loss


class Affine(nn.Module):
    def forward(self, x, c_noise, label=None):
        return 0.3 * x + c_noise.reshape(-1, 1, 1, 1)


def test_the_loss_is_edm_s_weighted_squared_error():
    """|F - target|^2 = lambda(sigma) |D - x0|^2 with lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2."""
    denoiser = Denoiser(Affine(), 0.6)
    x0, noise = torch.randn(2, 20, 3, 4, 4, dtype=torch.float64)
    sigma = torch.logspace(-2, 2, 20, dtype=torch.float64)
    loss = denoising_loss(denoiser, x0, sigma, noise)
    D = denoiser(x0 + sigma.reshape(-1, 1, 1, 1) * noise, sigma)
    weight = (sigma**2 + 0.6**2) / (sigma * 0.6) ** 2
    assert torch.allclose(loss, weight * (D - x0).square().mean((1, 2, 3)), rtol=1e-9)


def test_the_loss_is_trigflow_s_velocity_error():
    """|F_trig - v_t / sigma_data|^2 with v_t = cos(t) z - sin(t) x0 and z = sigma_data * noise."""
    sigma_data = 0.6
    denoiser = Denoiser(Affine(), sigma_data, "trigflow")
    x0, noise = torch.randn(2, 20, 3, 4, 4, dtype=torch.float64)
    t = torch.linspace(0.01, 1.56, 20, dtype=torch.float64)
    sigma = sigma_data * t.tan()
    cos, sin = (f(t).reshape(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
    x_t, v_t = cos * x0 + sin * sigma_data * noise, cos * sigma_data * noise - sin * x0
    expected = (Affine()(x_t / sigma_data, t) - v_t / sigma_data).square().mean((1, 2, 3))
    assert torch.allclose(denoising_loss(denoiser, x0, sigma, noise), expected, rtol=1e-9)


def test_the_target_keeps_its_digits_at_both_ends():
    """In float32 the loss of a fixed network output agrees with float64 to rounding, at any level."""
    denoiser = Denoiser(Affine(), 0.5)
    x0, noise = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64)
    sigma = torch.tensor([0.002, 80.0], dtype=torch.float64)
    exact = denoising_loss(denoiser, x0, sigma, noise)
    rounded = denoising_loss(denoiser, x0.float(), sigma.float(), noise.float())
    assert torch.allclose(rounded.double(), exact, rtol=1e-5)
