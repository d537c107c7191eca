"""Grids learned share by share: what holds whatever the networks say, the optimum on a line, and resuming exactly."""

import copy
import math

import pytest
import torch

from lightning_diff import schedules
from lightning_diff.oracle import Gaussian
from lightning_diff.samplers import check_sigmas, euler
from lightning_diff.schedules.environments import EndPoint, Outcome, StepError, Surrogate
from lightning_diff.schedules.stick_breaking import StickBreaking

ONE = Gaussian(torch.zeros(1, dtype=torch.float64), 1.0)


def denoise(x, sigma, label=None):
    return ONE(x, sigma)


def train(learner, updates, lr=1e-3, batch=32, seed=0):
    optimiser = torch.optim.Adam(learner.parameters(), lr=lr)
    draws = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        noise = torch.randn(batch, 1, dtype=torch.float64, generator=draws) * math.sqrt(10) / 3
        z = torch.randn(batch, learner.steps, generator=draws)
        loss, details = learner(denoise, noise, z)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        learner.learn(details)
    return learner


def cost(grid):
    """sum |Q| h^2 / 2 along the exact trajectory of x0 = 1."""
    s, h = grid[:-1], grid[:-1] - grid[1:]
    return float(((1 + s**2) ** -1.5 * h**2 / 2).sum())


def test_before_training_it_is_the_even_grid():
    for n in (2, 7, 32):
        learner = StickBreaking(n, 80.0, sigma_data=0.7)
        torch.testing.assert_close(
            learner.grid(), schedules.tangent(n, 0.0, 80.0, sigma_data=0.7), rtol=1e-9, atol=1e-9
        )
        torch.testing.assert_close(
            learner.grid(5), schedules.tangent(5, 0.0, 80.0, sigma_data=0.7), rtol=0.3, atol=1e-9
        )


@pytest.mark.parametrize("bias", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("start", ["angle", "monitor"])
def test_whatever_the_actor_says_levels_decrease_from_the_first_to_0(bias, start):
    learner = StickBreaking(6, 3.0, sigma_data=1.0, start=start)
    torch.nn.init.constant_(learner.actor[4].bias, bias)
    for _ in range(2):
        loss, details = learner(denoise, torch.randn(4, 1, dtype=torch.float64), torch.randn(4, 6))
        learner.learn(details)
        check_sigmas(learner.grid())
        assert loss.isfinite().all()


def test_the_first_call_finds_the_closed_form_and_teaches_nothing():
    """Steps even in int |Q|^(1/2) dsigma, here int (1 + sigma^2)^(-3/4) dsigma along the path of x0 = 1."""
    learner = StickBreaking(9, 3.0, sigma_min=1e-4, width=8)
    before = copy.deepcopy(dict(learner.named_parameters()))
    optimiser = torch.optim.SGD(learner.parameters(), lr=1.0)
    loss, details = learner(denoise, math.sqrt(10) / 3 * torch.ones(3, 1, dtype=torch.float64), torch.randn(3, 9))
    loss.sum().backward()
    optimiser.step()
    learner.learn(details)
    assert all(torch.equal(before[name], weight) for name, weight in learner.named_parameters())
    levels = learner.grid()
    fine = torch.linspace(0, 3, 3001, dtype=torch.float64)
    way = torch.cat([fine.new_zeros(1), torch.cumulative_trapezoid((1 + fine**2) ** -0.75, fine)])
    share = way[(levels * 1000).round().long()] / way[-1]
    torch.testing.assert_close(share, torch.linspace(1, 0, 10, dtype=torch.float64), rtol=0, atol=5e-3)
    learner.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert torch.equal(learner.grid(), levels)


@pytest.mark.whole
@pytest.mark.parametrize("first", ["angle", "monitor"])
def test_it_finds_the_grid_of_least_cost_and_the_published_distances(first):
    """1-D, T = 3 (arXiv 2601.18681): between ART-RL's W2 and the closed form's at K = 5 and 20; below both rivals' cost."""
    learner = train(StickBreaking(32, 3.0, sigma_data=0.4, sigma_min=1e-4, start=first, width=64), 80, lr=3e-3)
    x = math.sqrt(10) * torch.ones(1, 1, dtype=torch.float64)
    for n, published in ((5, 0.149), (20, 0.042)):
        assert abs(1 - float(euler(denoise, x, learner.grid(n)))) == pytest.approx(published, abs=0.006)
    start = schedules.tangent(32, 0.0, 3.0, sigma_data=0.4)
    for other in (start, schedules.uniform(32, 0.0, 3.0), schedules.karras(32, 0.0, 3.0)):
        assert cost(learner.grid()) < 0.9 * cost(other)


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped():
    whole, half = (StickBreaking(4, 3.0, width=8) for _ in range(2))
    half.load_state_dict(whole.state_dict())
    train(whole, 3)
    again = StickBreaking(4, 3.0, width=8)
    again.load_state_dict(copy.deepcopy(whole.state_dict()))
    train(whole, 2, seed=1)
    train(again, 2, seed=1)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize(
    "environment", [Surrogate(), StepError("heun", 2), StepError("dpmpp_2m", 2), EndPoint("euler", 32)]
)
def test_in_every_environment_a_bad_grid_returns_less(environment):
    """Half of the way in one step at high noise, against the even grid."""
    noise, still = torch.ones(1, 1, dtype=torch.float64) / 3 * math.sqrt(10), torch.zeros(1, 6)
    good = StickBreaking(6, 3.0, sigma_data=1.0, environment=environment)
    bad = copy.deepcopy(good)
    torch.nn.init.constant_(bad.actor[4].bias, 3.0)
    one, other = (learner.rollout(denoise, noise, still) for learner in (good, bad))
    assert float(one.outcome - one.cost.sum()) > float(other.outcome - other.cost.sum())


def test_anybodys_reward_is_called_once_at_the_end_with_the_labels():
    calls = []

    def reward(images, label):
        calls.append((images, label))
        return -images.square().mean(1)

    learner = StickBreaking(3, 3.0, environment=Outcome(reward, "euler"), start="angle")
    label = torch.arange(4)
    seen = learner.rollout(denoise, torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 3), label)
    ((images, given),) = calls
    assert torch.equal(given, label)
    torch.testing.assert_close(seen.outcome, -images.square().mean(1))
    torch.testing.assert_close(images, euler(denoise, 3 * torch.ones(4, 1, dtype=torch.float64), learner.grid()))


def test_features_may_stand_in_the_distances_place():
    x, still = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 3)
    blind = StickBreaking(3, 3.0, environment=EndPoint("euler", 8, features=torch.zeros_like))
    assert torch.equal(blind.rollout(denoise, x, still).outcome, torch.zeros(2, dtype=torch.float64))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"StickBreaking: .*exploration > 0"):
        StickBreaking(exploration=0.0)
    with pytest.raises(ValueError, match=r"StickBreaking: .*steps >= 2"):
        StickBreaking(1)
