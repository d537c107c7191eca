"""Samples that chose their own levels are those that the samplers draw on these levels, each by itself."""

import pytest
import torch

from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation import rng
from lightning_diff.nets import MLP
from lightning_diff.samplers import ODE_SOLVERS, nfe
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules import StepPolicy
from lightning_diff.schedules.adaptive_sampling import sample_with_policy

N, SHAPE = 12, (2,)
LABELS = torch.arange(N) % 3


def various(solver="euler"):
    """A policy whose choices depend much on the state."""
    torch.manual_seed(5)
    policy = StepPolicy(max_steps=9, sigma_max=3.0, sigma_min=0.02, width=8, solver=solver)
    torch.nn.init.normal_(policy.net[-1].weight, std=4.0)
    return policy


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    made = Denoiser(MLP(SHAPE, 3, 16, 1))
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_each_is_what_the_solver_draws_on_the_levels_that_it_chose(denoiser, solver):
    policy = various(solver)
    samples, steps = sample_with_policy(denoiser, SHAPE, range(N), LABELS, policy=policy, seed=3)
    assert len(steps.unique()) > 1
    drawn = policy.sample(denoiser, rng.normal(3, "sample", range(N), SHAPE), LABELS)
    options = (
        {"lower_order_final": False} if solver == "unipc" else {}
    )  # the policy does not know how many steps are left
    for i, levels in enumerate(drawn.levels[:5]):
        nodes = torch.cat([levels[levels > 0], levels.new_zeros(1)])
        own = generate(denoiser, SHAPE, [i], LABELS[i : i + 1], sigmas=nodes, solver=solver, seed=3, **options)
        torch.testing.assert_close(samples[i : i + 1], own, rtol=1e-4, atol=1e-4)
        assert policy.evaluations(steps)[i] == nfe(solver, nodes)


def test_guidance_and_a_guide_are_generates(denoiser):
    policy = various()
    options = {"seed": 3, "guidance": 2.0, "interval": (0.1, 2.0)}
    samples, _ = sample_with_policy(denoiser, SHAPE, range(4), LABELS[:4], policy=policy, **options)
    plain, _ = sample_with_policy(denoiser, SHAPE, range(4), LABELS[:4], policy=policy, seed=3)
    assert not torch.allclose(samples, plain)
    same, _ = sample_with_policy(
        denoiser, SHAPE, range(4), LABELS[:4], policy=policy, seed=3, guidance=2.0, guide=denoiser
    )
    torch.testing.assert_close(same, plain)


def test_neither_samples_nor_steps_depend_on_the_batch_or_the_mode(denoiser):
    policy = various("heun")
    samples, steps = sample_with_policy(denoiser.train(), SHAPE, range(N), LABELS, policy=policy)
    parts, of_parts = sample_with_policy(denoiser, SHAPE, range(N), LABELS, policy=policy, batch=5)
    assert denoiser.training
    assert torch.equal(steps, of_parts)
    torch.testing.assert_close(samples, parts)


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_the_model_is_called_as_often_as_is_said_and_with_each_ones_label(denoiser, solver):
    called = torch.zeros(3, dtype=torch.int64)

    def counting(x, sigma, label):
        called.index_add_(0, label, torch.ones_like(label))
        return denoiser(x, sigma, label)

    policy = various(solver)
    _, steps = sample_with_policy(counting, SHAPE, range(N), LABELS, policy=policy, batch=7)
    expected = torch.zeros_like(called).index_add_(0, LABELS, policy.evaluations(steps))
    assert torch.equal(called, expected)


def test_mistakes_are_named(denoiser):
    with pytest.raises(ValueError, match=r"label.* 12 for 2"):
        sample_with_policy(denoiser, SHAPE, range(2), LABELS, policy=various())
    with pytest.raises(ValueError, match=r"batch .*1"):
        sample_with_policy(denoiser, SHAPE, range(2), policy=various(), batch=0)
