"""Advantage-weighted matching in its velocity form, and its gradient at the old policy: the advantage times flow matching's."""

import math

import pytest
import torch

from lightning_diff.noise import sigma_to_flow_time
from lightning_diff.objectives import advantage_weighted_loss

SHAPE = (5, 1, 3, 3)


@pytest.fixture
def drawn():
    """x0, x_t, v*, sigma and t, all in flow matching's coordinates."""
    x0, eps = torch.randn(2, *SHAPE).double().unbind(0)
    sigma = torch.logspace(-1, 1, SHAPE[0]).double()
    t = sigma_to_flow_time(sigma).reshape(-1, 1, 1, 1)
    return x0, (1 - t) * x0 + t * eps, eps - x0, sigma, t


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_ratio_is_of_the_weighted_velocity_errors(drawn, power):
    x0, x_t, target, sigma, t = drawn
    v, v_old, v_ref = torch.randn(3, *SHAPE).double().unbind(0)
    A = torch.randn(5).double()
    log_p, log_p_old = (-(t**power * (each - target) ** 2).mean((1, 2, 3)) for each in (v, v_old))
    ratio = (log_p - log_p_old).exp()
    expected = torch.maximum(-A * ratio, -A * ratio.clamp(0.5, 1.5))
    expected = expected + 0.2 * (v - v_ref).square().mean((1, 2, 3)) + 0.7 * (v - v_old).square().mean((1, 2, 3))
    estimates = (x_t - t * each for each in (v, v_old, v_ref))
    given = advantage_weighted_loss(x0, *estimates, sigma, A, power=power, clip=0.5, kl=0.2, kl_old=0.7)
    assert torch.allclose(given.ratio, ratio, rtol=1e-9)
    assert torch.allclose(given.loss, expected, rtol=1e-9)
    assert torch.allclose(given.kl, (v - v_ref).square().mean((1, 2, 3)), rtol=1e-9)


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_at_the_old_policy_it_is_flow_matching_times_the_clipped_advantage(drawn, power):
    x0, x_t, target, sigma, t = drawn
    v = torch.randn(SHAPE).double().requires_grad_()
    A = torch.tensor([-9.0, -1.0, 0.0, 2.0, 9.0]).double()
    old = (x_t - t * v).detach()
    given = advantage_weighted_loss(x0, x_t - t * v, old, old, sigma, A, power=power)
    (gradient,) = torch.autograd.grad(given.loss.sum(), v)
    clipped = A.clamp(-5, 5).reshape(-1, 1, 1, 1)
    expected = clipped * t**power * 2 * (v - target).detach() / math.prod(SHAPE[1:])
    assert torch.allclose(gradient, expected, rtol=1e-6, atol=1e-12)
    assert torch.allclose(given.ratio, torch.ones(5).double())
    assert not given.kl.any()


def test_only_the_trained_policy_gets_a_gradient(drawn):
    x0, x_t, *_, sigma, _ = drawn
    leaves = [x_t.clone().requires_grad_() for _ in range(3)]
    given = advantage_weighted_loss(x0, *leaves, sigma, torch.ones(5).double())
    gradients = torch.autograd.grad(given.loss.sum(), leaves, allow_unused=True)
    assert [each is None for each in gradients] == [False, True, True]


def test_a_missing_reference_is_an_error_in_words(drawn):
    x0, x_t, *_, sigma, _ = drawn
    with pytest.raises(ValueError, match=r"advantage_weighted_loss: .*kl=0"):
        advantage_weighted_loss(x0, x_t, x_t, None, sigma, torch.ones(5).double())
