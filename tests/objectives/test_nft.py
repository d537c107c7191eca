"""The DiffusionNFT loss in its velocity form, written out beside it, and its closed-form gradient at the old policy."""

import math

import pytest
import torch

from lightning_diff.noise import sigma_to_flow_time
from lightning_diff.objectives.nft import advantages, nft_loss, optimality, velocity_distance

SHAPE = (6, 2, 3, 3)
D = math.prod(SHAPE[1:])


def drawn(count):
    return torch.randn(count, *SHAPE, dtype=torch.float64).unbind(0)


def levels():
    return torch.logspace(-2, 1.5, SHAPE[0], dtype=torch.float64)


def column(values):
    return values.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(("beta", "kl"), [(1.0, 1e-4), (0.1, 0.0), (0.7, 0.3)])
def test_it_is_the_velocity_form_of_the_paper(beta, kl):
    """Every quantity from velocities at x_t = (1 - t) x0 + t eps, as flow matching has it."""
    x0, eps, v, v_old, v_ref = drawn(5)
    sigma, r = levels(), torch.rand(SHAPE[0], dtype=torch.float64)
    t = column(sigma_to_flow_time(sigma))
    x_t = (1 - t) * x0 + t * eps
    assert torch.allclose(x_t, (1 - t) * (x0 + column(sigma) * eps), rtol=1e-12)

    def branch(velocity):
        error = (x_t - t * velocity) - x0
        assert torch.allclose(error, -t * (velocity - (eps - x0)), atol=1e-12)
        w = error.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-5)
        return (error**2 / w).mean((1, 2, 3))

    positive, negative = branch(beta * v + (1 - beta) * v_old), branch((1 + beta) * v_old - beta * v)
    distance = (v - v_ref).square().mean((1, 2, 3))
    expected = 5 * (r * positive + (1 - r) * negative) / beta + kl * distance
    given = nft_loss(x0, x_t - t * v, x_t - t * v_old, x_t - t * v_ref, sigma, r, beta=beta, kl=kl)
    assert torch.allclose(given.loss, expected, rtol=1e-9)
    assert torch.allclose(given.kl, distance, rtol=1e-9)
    assert torch.allclose(given.positive, positive, rtol=1e-9)
    assert torch.allclose(given.negative, negative, rtol=1e-9)


@pytest.mark.parametrize("beta", [1.0, 0.1])
@pytest.mark.parametrize("clip", [5.0, 2.0])
def test_at_the_old_policy_the_gradient_is_the_clipped_advantage_along_the_error(beta, clip):
    """-(2 t / (d w)) clip(A) (D - x0) with respect to v, whatever beta; the reference, there too, adds nothing."""
    x0, old = drawn(2)
    sigma = levels()
    t = column(sigma_to_flow_time(sigma))
    x_t = (1 - t) * (x0 + column(sigma) * torch.randn_like(x0))
    advantage = torch.tensor([-9.0, -1.3, 0.0, 0.4, 2.0, 7.0], dtype=torch.float64)
    v = ((x_t - old) / t).requires_grad_()
    loss = nft_loss(
        x0, x_t - t * v, old, old, sigma, optimality(advantage, clip), beta=beta, kl=0.5, advantage_clip=clip
    )
    (gradient,) = torch.autograd.grad(loss.loss.sum(), v)
    w = (old - x0).abs().mean((1, 2, 3), keepdim=True)
    expected = -(2 * t / (D * w)) * column(advantage.clamp(-clip, clip)) * (old - x0)
    assert torch.allclose(gradient, expected, rtol=1e-6, atol=1e-12)


def test_the_reference_s_gradient_vanishes_at_the_reference_and_is_the_velocities_difference_elsewhere():
    _, ref, x_hat = drawn(3)
    sigma = levels()
    for estimate in (ref, x_hat):
        leaf = estimate.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(velocity_distance("test", leaf, ref, sigma, 1.0).sum(), leaf)
        expected = 2 * (estimate - ref) / (D * column(sigma_to_flow_time(sigma)) ** 2)
        assert torch.allclose(gradient, expected, rtol=1e-12)
    assert not torch.autograd.grad(velocity_distance("test", leaf, leaf.detach(), sigma, 1.0).sum(), leaf)[0].any()


def test_the_value_at_the_old_policy_does_not_know_the_reward():
    x0, old = drawn(2)
    values = [
        nft_loss(x0, old, old, None, levels(), torch.full((6,), r).double(), kl=0.0).loss for r in (0.0, 0.3, 1.0)
    ]
    assert torch.allclose(values[0], values[1], rtol=1e-12)
    assert torch.allclose(values[0], values[2], rtol=1e-12)


def test_old_policy_reference_and_weights_get_no_gradient():
    x0, x_hat, old, ref = drawn(4)
    leaves = [each.requires_grad_() for each in (x_hat, old, ref)]
    given = nft_loss(x0, *leaves, levels(), torch.rand(6).double())
    gradients = torch.autograd.grad(given.loss.sum(), leaves, allow_unused=True)
    assert gradients[1] is None
    assert gradients[2] is None
    assert not any(each.requires_grad for each in given[1:])


def test_a_perfect_estimate_divides_by_the_smallest_weight_and_not_by_zero():
    x0 = drawn(1)[0]
    leaf = x0.clone().requires_grad_()
    loss = nft_loss(x0, leaf, x0, None, levels(), torch.ones(6).double(), kl=0.0).loss
    assert torch.equal(loss, torch.zeros(6).double())
    assert torch.autograd.grad(loss.sum(), leaf)[0].isfinite().all()


def test_half_precision_estimates_are_weighed_in_float64():
    x0, x_hat, old = (each.bfloat16() for each in drawn(3))
    args = levels(), torch.rand(6).double()
    loss = nft_loss(x0, x_hat, old, None, *args, kl=0.0).loss
    exact = nft_loss(x0.double(), x_hat.double(), old.double(), None, *args, kl=0.0).loss
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), exact, rtol=1e-6)


def test_advantages_have_mean_zero_in_each_group_and_one_scale_over_all():
    group = torch.tensor([3, 3, 3, 0, 0, 7, 7, 7, 7])
    reward = torch.randn(9) * torch.tensor([1.0, 1, 1, 5, 5, 2, 2, 2, 2]) + group
    a = advantages(reward, group)
    for number in group.unique():
        inside = reward[group == number].double()
        assert torch.allclose(a[group == number], (inside - inside.mean()) / (reward.double().std(correction=0) + 1e-4))
        of_group = advantages(reward, group, spread="group")[group == number]
        assert torch.allclose(of_group, (inside - inside.mean()) / (inside.std(correction=0) + 1e-4))
    pools = torch.full((9,), 2.0)
    assert torch.allclose(
        advantages(reward, group, baseline=pools), (reward.double() - 2) / (reward.double().std(correction=0) + 1e-4)
    )
    assert not advantages(torch.ones(9), group).any()


def test_optimality_is_a_probability_and_inverts_to_the_clipped_advantage():
    a = torch.linspace(-8, 8, 33, dtype=torch.float64)
    r = optimality(a, 5.0)
    assert r.min() == 0
    assert r.max() == 1
    assert torch.allclose(5 * (2 * r - 1), a.clamp(-5, 5))


def test_settings_that_make_no_sense_are_refused_in_words():
    x = drawn(1)[0]
    with pytest.raises(ValueError, match=r"beta .*positive"):
        nft_loss(x, x, x, x, levels(), torch.ones(6).double(), beta=0.0)
    with pytest.raises(ValueError, match="or give kl=0"):
        nft_loss(x, x, x, None, levels(), torch.ones(6).double())
    with pytest.raises(ValueError, match=r"clip .*positive"):
        optimality(torch.ones(1), 0.0)
