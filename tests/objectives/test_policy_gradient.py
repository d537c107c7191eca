"""The stochastic chain as a sampler, its densities, and the policy gradient against the analytic one of a Gaussian."""

import math

import numpy as np
import pytest
import torch

from lightning_diff.objectives.policy_gradient import (
    clipped_ratio_loss,
    gaussian_log_prob,
    policy_gradient_loss,
    sample_chain,
    transition,
)
from lightning_diff.oracle import Gaussian
from lightning_diff.samplers import euler
from lightning_diff.schedules import karras

MEAN, STD = 0.3, 0.6
ORACLE = Gaussian(torch.tensor([MEAN], dtype=torch.float64), STD**2)


def slope(errors, sizes):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def both(sigma, sigma_next, n):
    return torch.full((n,), sigma, dtype=torch.float64), torch.full((n,), sigma_next, dtype=torch.float64)


def test_the_log_probability_is_the_density_of_the_recorded_transition():
    sigmas = karras(5, sigma_max=10.0)
    chain = sample_chain(ORACLE, sigmas[0] * torch.randn(7, 1).double(), sigmas, eta=0.7)
    assert chain.states.shape == (6, 7, 1)
    assert chain.log_prob.shape == (4, 7)
    for k in range(4):
        x, x_next = chain.states[k], chain.states[k + 1]
        sigma, sigma_next = sigmas[k], sigmas[k + 1]
        std = 0.7 * sigma_next * (1 - (sigma_next / sigma) ** 2).sqrt()
        x_hat = ORACLE(x, sigma)
        mean = x_hat + (sigma_next**2 - std**2).sqrt() * (x - x_hat) / sigma
        expected = torch.distributions.Normal(mean, std).log_prob(x_next).sum(1)
        assert torch.allclose(chain.log_prob[k], expected, rtol=1e-9)
    assert torch.allclose(chain.states[5], ORACLE(chain.states[4], sigmas[4]))


def test_the_density_is_joint_over_the_elements_of_a_sample():
    x, mean = torch.randn(2, 3, 2, 4, 4).double().unbind(0)
    std = torch.tensor([0.1, 1.0, 7.0]).double()
    expected = torch.distributions.Normal(mean, std.reshape(3, 1, 1, 1)).log_prob(x).sum((1, 2, 3))
    assert torch.allclose(gaussian_log_prob(x, mean, std), expected, rtol=1e-12)


def test_without_noise_it_is_euler_s_method():
    sigmas = karras(6, sigma_max=10.0)
    x = sigmas[0] * torch.randn(5, 1).double()
    chain = sample_chain(ORACLE, x, sigmas, eta=1e-9)
    assert torch.allclose(chain.states[-1], euler(ORACLE, x, sigmas), atol=1e-7)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_samples_distribution_converges_to_the_data_s(eta):
    """With the Gaussian's own denoiser every step is affine: mean and variance follow exactly, and err by O(1/n)."""

    def moments(n):
        sigmas = karras(n, sigma_max=20.0)
        probes = torch.tensor([[0.0], [1.0]]).double()
        mean, variance = torch.zeros(()).double(), sigmas[0] ** 2
        for sigma, sigma_next in zip(sigmas[:-2].tolist(), sigmas[1:-1].tolist(), strict=True):
            images, std = transition(
                probes, ORACLE(probes, torch.tensor(sigma).double()), *both(sigma, sigma_next, 2), eta=eta
            )
            offset, gain = images[0, 0], images[1, 0] - images[0, 0]
            mean, variance = gain * mean + offset, gain**2 * variance + std[0] ** 2
        return mean.item(), variance.item()

    sizes = [64, 128, 256, 512]
    errors = [abs(moments(n)[1] - STD**2) for n in sizes]
    assert -1.3 < slope(errors, sizes) < -0.8
    assert abs(moments(512)[0] - MEAN) < 0.02


def test_in_small_steps_it_is_flow_grpo_s_sde_with_a_equal_to_eta_times_the_root_of_two():
    """y + (v + s^2 / (2t) (y + (1 - t) v)) dt with s = a sqrt(t / (1 - t)), in y = x / (1 + sigma): means agree to second order."""
    a, t = 0.7, 0.6
    y, v = torch.randn(2, 4, 3).double().unbind(0)
    s = a * math.sqrt(t / (1 - t))
    sizes, means, stds = [1e-2, 5e-3, 2.5e-3], [], []
    for dt in sizes:
        sigma, sigma_next = t / (1 - t), (t - dt) / (1 - t + dt)
        mean, std = transition(
            y * (1 + sigma), y - t * v, *both(sigma, sigma_next, 4), eta=a / math.sqrt(2)
        )  # x_hat = y - t v
        theirs = y - (v + s**2 / (2 * t) * (y + (1 - t) * v)) * dt
        means.append((mean / (1 + sigma_next) - theirs).abs().max().item())
        stds.append(abs(std[0].item() / (1 + sigma_next) / (s * math.sqrt(dt)) - 1))
    assert 1.8 < slope(means, sizes) < 2.2
    assert 0.8 < slope(stds, sizes) < 1.2


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_at_the_old_policy_the_ratio_is_one_and_the_reference_at_no_distance(reduction):
    oracle = Gaussian(torch.randn(2, 3, 3).double(), 0.4)
    sigmas = karras(4)
    chain = sample_chain(oracle, sigmas[0] * torch.randn(5, 2, 3, 3).double(), sigmas)
    for k in range(3):
        x, x_next = chain.states[k], chain.states[k + 1]
        x_hat = oracle(x, sigmas[k]).requires_grad_()
        levels = both(sigmas[k].item(), sigmas[k + 1].item(), 5)
        A = torch.randn(5).double()
        given = policy_gradient_loss(
            x, x_next, x_hat, x_hat.detach(), *levels, chain.log_prob[k], A, reduction=reduction
        )
        assert torch.allclose(given.ratio, torch.ones(5).double(), atol=1e-12)
        assert not given.kl.any()
        assert torch.allclose(given.loss, -A, atol=1e-9)


def test_its_expected_gradient_is_the_analytic_one():
    """A Gaussian's denoiser with a shifted mean, three steps, a quadratic reward: every integral by Gauss-Hermite quadrature."""
    sigmas, start = [3.0, 1.0, 0.4, 0.0], 2.1
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    z = torch.tensor([[p, q] for p in nodes for q in nodes]).double()
    w = torch.tensor([p * q for p in weights for q in weights]).double() / (2 * math.pi)

    def shifted(theta):
        return lambda x, sigma: (STD**2 * x + sigma**2 * (MEAN + theta)) / (STD**2 + sigma**2)

    chain = sample_chain(
        shifted(0.0),
        torch.full((64, 1), start, dtype=torch.float64),
        torch.tensor(sigmas, dtype=torch.float64),
        eta=0.8,
        generator=lambda x, step: z[:, step : step + 1],
    )
    reward = chain.states[-1][:, 0] ** 2 + 1.7 * chain.states[-1][:, 0]

    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    total = torch.zeros(()).double()
    for k in range(2):
        x, x_next, sigma = chain.states[k], chain.states[k + 1], torch.tensor(sigmas[k], dtype=torch.float64)
        levels = both(sigmas[k], sigmas[k + 1], 64)
        given = policy_gradient_loss(
            x, x_next, shifted(theta)(x, sigma), None, *levels, chain.log_prob[k], reward,
            eta=0.8, kl=0.0, advantage_clip=1e9, reduction="sum",
        )  # fmt: skip
        total = total + (w * given.loss).sum()
    (gradient,) = torch.autograd.grad(total, theta)

    mean, rate = start, 0.0  # of the chain's states, and d mean / d theta
    for sigma, sigma_next in ((3.0, 1.0), (1.0, 0.4)):
        std = 0.8 * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        r = math.sqrt(sigma_next**2 - std**2) / sigma
        slope_x = STD**2 / (STD**2 + sigma**2)
        gain, offset = r + (1 - r) * slope_x, (1 - r) * (1 - slope_x)
        mean, rate = gain * mean + offset * MEAN, gain * rate + offset
    last = STD**2 / (STD**2 + 0.4**2)  # of the deterministic step, the environment's
    mean, rate = last * mean + (1 - last) * MEAN, last * rate
    assert gradient.item() == pytest.approx(-(2 * mean + 1.7) * rate, rel=1e-9)


def test_the_divergence_is_that_of_two_gaussians():
    x, x_hat, x_ref = torch.randn(3, 4, 2, 3).double().unbind(0)
    levels = both(2.0, 0.5, 4)
    mean, std = transition(x, x_hat, *levels)
    mean_ref, _ = transition(x, x_ref, *levels)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std.reshape(4, 1, 1)),
        torch.distributions.Normal(mean_ref, std.reshape(4, 1, 1)),
    )
    zero = torch.zeros(4).double()
    for reduction, reduced in (("sum", expected.sum((1, 2))), ("mean", expected.mean((1, 2)))):
        given = policy_gradient_loss(x, x, x_hat, x_ref, *levels, zero, zero, kl=0.3, reduction=reduction)
        assert torch.allclose(given.kl, reduced, rtol=1e-9)
        assert torch.allclose(given.loss, 0.3 * reduced, rtol=1e-9)


def test_a_ratio_beyond_the_clip_has_no_gradient_where_it_would_grow_further():
    log_ratio = torch.tensor([0.5, 0.5, -0.5, -0.5], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
    (gradient,) = torch.autograd.grad(clipped_ratio_loss(log_ratio, advantage, 0.2, 5.0).sum(), log_ratio)
    assert gradient.ne(0).tolist() == [False, True, True, False]


def test_fresh_noise_comes_from_the_generator_alone():
    sigmas = karras(4)
    x = torch.randn(3, 1).double()
    chains = [sample_chain(ORACLE, x, sigmas, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(chains[0].states, chains[1].states)
    assert torch.equal(chains[0].log_prob, chains[1].log_prob)


def test_what_has_no_density_is_refused_in_words():
    x = torch.randn(2, 1).double()
    with pytest.raises(ValueError, match=r"eta .*\(0, 1\]"):
        sample_chain(ORACLE, x, karras(3), eta=0.0)
    with pytest.raises(ValueError, match="at least two steps"):
        sample_chain(ORACLE, x, karras(1))
    with pytest.raises(ValueError, match="x_hat_ref"):
        policy_gradient_loss(x, x, x, None, *both(2.0, 1.0, 2), *torch.zeros(2, 2).double())
    with pytest.raises(ValueError, match="must be positive"):
        clipped_ratio_loss(torch.zeros(1), torch.zeros(1), 0.0, 5.0)
