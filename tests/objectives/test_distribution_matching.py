"""Distribution matching against densities in closed form: DMD's gradient is a KL divergence's, SiD's mean a Fisher divergence."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_diff.denoiser import Denoiser
from lightning_diff.nets import MLP
from lightning_diff.objectives import dmd_loss, matching_loss, sid_loss
from lightning_diff.objectives.distribution_matching import teacher_mean
from lightning_diff.oracle import Gaussian, GaussianMixture

TEACHER = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.8]]).double(), torch.tensor([0.3, 0.5]))
SIGMA = torch.tensor(0.6, dtype=torch.float64)


def student(a, b):
    """The denoiser of samples G = a z + b, z standard normal."""
    return Gaussian(torch.tensor([b], dtype=torch.float64), float(a) ** 2)


def nodes(n=100):
    """(z, eps) of (n^2, 1) and weights: quadrature for two independent standard normals."""
    points, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(n))
    weights = weights / weights.sum()
    z, eps = (each.reshape(-1, 1) for each in torch.meshgrid(points, points, indexing="ij"))
    return z, eps, torch.outer(weights, weights).flatten()


def divergence(a, b):
    """KL(q_sigma || p_sigma), by quadrature."""
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    q, p = (each.log_prob(x, SIGMA) for each in (student(a, b), TEACHER))
    return float((q.exp() * (q - p)).sum() * (x[1] - x[0]))


def test_dmds_gradient_is_that_of_the_kl_divergence_times_the_variance_of_the_noise():
    a, b = 0.7, 0.4
    z, eps, weights = nodes()
    parameters = torch.tensor([a, b], dtype=torch.float64, requires_grad=True)
    G = parameters[0] * z + parameters[1]
    x = G + SIGMA * eps
    D_T, D_psi = TEACHER(x, SIGMA).detach(), student(a, b)(x, SIGMA).detach()
    distance = (G - D_T).detach().abs().mean(1)
    result = dmd_loss(G, D_T, D_psi)
    torch.testing.assert_close(result.residual, D_psi - D_T)
    torch.testing.assert_close(result.loss, ((D_psi - D_T)[:, 0] / distance) ** 2)
    (gradient,) = torch.autograd.grad((weights * distance * result.loss).sum() / 2, parameters)
    h = 1e-4
    expected = [
        (divergence(a + h, b) - divergence(a - h, b)) / (2 * h),
        (divergence(a, b + h) - divergence(a, b - h)) / (2 * h),
    ]
    torch.testing.assert_close(gradient, SIGMA**2 * torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0)


def test_sids_mean_is_a_fisher_divergence_and_its_gradient_goes_through_both_denoisers():
    a, b, alpha = 0.7, 0.4, 1.2
    z, eps, weights = nodes()
    G = (a * z + b).requires_grad_()
    critic = student(a, b)
    result = matching_loss(G, SIGMA.expand(len(G)), eps, TEACHER, critic, loss="sid", alpha=alpha)
    (gradient,) = torch.autograd.grad(result.loss.sum(), G)

    x = G.detach() + SIGMA * eps
    D_T, D_psi = TEACHER(x, SIGMA), critic(x, SIGMA)
    distance = (G - D_T).detach().abs()
    plain = (D_T - D_psi) * ((D_T - G.detach()) - alpha * (D_T - D_psi)) / distance
    torch.testing.assert_close(result.loss.detach(), plain[:, 0])
    torch.testing.assert_close(result.residual, D_psi - D_T)
    difference = (weights * (D_T - D_psi)[:, 0] ** 2).sum()
    torch.testing.assert_close((weights * (plain * distance)[:, 0]).sum(), (1 - alpha) * difference, rtol=1e-8, atol=0)

    h = 1e-5

    def at(G):
        x = G + SIGMA * eps
        D_T, D_psi = TEACHER(x, SIGMA), critic(x, SIGMA)
        return (D_T - D_psi) * ((D_T - G) - alpha * (D_T - D_psi)) / distance  # whose gradient is not taken

    slope = (at(G.detach() + h) - at(G.detach() - h)) / (2 * h)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["dmd", "sid"])
def test_a_student_with_the_teachers_density_and_an_exact_critic_stays(loss):
    z, eps, _ = nodes(8)
    G = (0.7 * z + 0.4).requires_grad_()
    same = student(0.7, 0.4)
    result = matching_loss(G, SIGMA.expand(len(G)), eps, same, same, loss=loss)
    (gradient,) = torch.autograd.grad(result.loss.sum(), G)
    assert not gradient.any()
    assert not result.residual.any()


@pytest.mark.parametrize("loss", ["dmd", "sid"])
def test_the_networks_weights_get_no_gradient_and_the_students_do(loss):
    teacher, critic = (Denoiser(MLP((2,), width=8, depth=1), 0.7) for _ in range(2))
    for weight in critic.parameters():
        nn.init.normal_(weight, std=0.5)
    scale = torch.ones((), requires_grad=True)
    sigma, noise = torch.tensor([0.1, 1.0, 20.0]), torch.randn(3, 2)
    G = scale * torch.randn(3, 2)
    result = matching_loss(G, sigma, noise, teacher_mean(teacher), lambda x, sigma: critic(x, sigma), loss=loss)
    result.loss.sum().backward()
    assert math.isfinite(scale.grad)
    assert scale.grad != 0
    assert all(weight.grad is None for weight in [*teacher.parameters(), *critic.parameters()])


def test_the_denominator_has_a_floor():
    G = torch.zeros(2, 3, requires_grad=True)
    for result in (dmd_loss(G, torch.zeros(2, 3), torch.ones(2, 3)), sid_loss(G, torch.zeros(2, 3), torch.ones(2, 3))):
        assert result.loss.isfinite().all()


def test_a_guided_teacher_extrapolates_each_sample_by_its_own_scale():
    mixture = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]).double(), 0.3, torch.tensor([0, 1]))
    teacher = mixture.denoiser(0.7)
    x, sigma, label = torch.randn(4, 1).double(), torch.full((4,), 0.5).double(), torch.tensor([0, 1, 0, 1])
    scale = torch.tensor([0.0, 1.0, 1.5, 3.0]).double()
    guided = teacher_mean(teacher, label, scale)(x, sigma)
    without, with_label = teacher(x, sigma), teacher(x, sigma, label)
    torch.testing.assert_close(guided, without + scale[:, None] * (with_label - without))
    torch.testing.assert_close(teacher_mean(teacher, label)(x, sigma), with_label)


def test_an_unknown_loss_is_refused():
    G = torch.zeros(1, 1)
    with pytest.raises(Exception, match="loss"):
        matching_loss(G, torch.ones(1), G, TEACHER, TEACHER, loss="gan")
