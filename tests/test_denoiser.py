import pytest
import torch
from torch import nn

from lightning_diff.denoiser import Denoiser
from lightning_diff.noise import t_to_sigma


class Function(nn.Module):
    """The same function of (x_in, sigma), conditioned on its level in either coordinate and signed to match."""

    def __init__(self, time: str, sigma_data: float):
        super().__init__()
        self.time, self.sigma_data = time, sigma_data

    def forward(self, x, c_noise, label=None):
        sigma = (4 * c_noise).exp() if self.time == "edm" else t_to_sigma(c_noise, self.sigma_data)
        F = torch.tanh(x + sigma.log().reshape(-1, 1, 1, 1)) * (1 if label is None else label.reshape(-1, 1, 1, 1))
        return F if self.time == "edm" else -F


@pytest.mark.parametrize("label", [None, torch.tensor([1, 2, 3])])
def test_edm_and_trigflow_conditioning_of_one_function_agree(label):
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    sigma = torch.tensor([0.002, 0.7, 80.0], dtype=torch.float64)
    edm, trigflow = (Denoiser(Function(time, 0.6), 0.6, time)(x, sigma, label) for time in ("edm", "trigflow"))
    assert torch.allclose(edm, trigflow, rtol=1e-12, atol=1e-12)


def test_edm_coefficients_are_those_of_the_paper():
    class One(nn.Module):
        def forward(self, x, c_noise, label=None):
            self.c_noise = c_noise
            return torch.ones_like(x)

    net, sigma, sigma_data = One(), torch.tensor(2.0), 0.5
    x = torch.full((1, 1, 1, 1), 3.0)
    norm = (2.0**2 + sigma_data**2) ** 0.5
    expected = sigma_data**2 / norm**2 * 3.0 + 2.0 * sigma_data / norm
    assert torch.allclose(Denoiser(net, sigma_data)(x, sigma), torch.tensor(expected))
    assert torch.allclose(net.c_noise, sigma.log() / 4)


def test_one_level_for_all_equals_one_level_each():
    denoiser = Denoiser(Function("edm", 0.5))
    x = torch.randn(4, 1, 2, 2)
    assert torch.equal(denoiser(x, torch.tensor(0.3)), denoiser(x, torch.full((4,), 0.3)))


def test_the_network_sees_unit_variance_and_conditioning_that_was_given():
    class Spy(nn.Module):
        def forward(self, x, c_noise, label=None, **rest):
            self.std, self.rest = x.std(), rest
            return torch.zeros_like(x)

    spy = Spy()
    x = torch.randn(64, 3, 8, 8) * (0.5**2 + 10.0**2) ** 0.5
    Denoiser(spy)(x, torch.tensor(10.0), augment=None)
    assert abs(spy.std - 1) < 0.02
    assert spy.rest == {}
    Denoiser(spy)(x, torch.tensor(10.0), augment=torch.zeros(64, 9))
    assert list(spy.rest) == ["augment"]


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"sigma_data .*positive"):
        Denoiser(nn.Identity(), 0.0)
    with pytest.raises(ValueError, match=r"time .*edm, trigflow"):
        Denoiser(nn.Identity(), 0.5, "vp")
