"""Samples that choose their own steps: the laws of their bookkeeping, what the mode does, learning fewer steps, exactness."""

import copy

import pytest
import torch

from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError
from lightning_diff.oracle import Gaussian
from lightning_diff.samplers import euler
from lightning_diff.schedules.step_policy import StepPolicy

ONE = Gaussian(torch.zeros(1, dtype=torch.float64), 1.0)
PLANE = {"sigma_max": 3.0, "sigma_min": 0.01, "sigma_data": 1.0, "width": 16}


def model(x, sigma, label=None):
    return ONE(x, sigma)


def noise(n, first=0):
    return rng.normal(0, "noise", range(first, first + n), (1,)).double() * 10**0.5 / 3


def train(policy, updates, batch=16, lr=1e-2):
    optimiser = torch.optim.Adam(policy.parameters(), lr=lr)
    for _ in range(updates):
        first = int(policy.updates) * batch
        loss, details = policy(model, noise(batch, first), policy.exploration_noise(0, range(first, first + batch)))
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        policy.learn(details)
    return details


def test_levels_fall_to_0_steps_are_counted_and_the_solver_is_the_samplers():
    policy = StepPolicy(max_steps=12, **PLANE)
    drawn = policy.sample(model, noise(8), generators=torch.Generator().manual_seed(0), explore=True)
    assert ((drawn.levels > 0).sum(1) == drawn.steps).all()
    assert (drawn.steps <= 12).all()
    assert drawn.steps.unique().numel() > 1
    for i, levels in enumerate(drawn.levels):
        nodes = torch.cat([levels[levels > 0], levels.new_zeros(1)])
        start = 3.0 * noise(8)[i : i + 1]
        torch.testing.assert_close(drawn.x[i : i + 1], euler(lambda x, sigma: ONE(x, sigma), start, nodes))


def test_the_mode_is_one_choice_and_starts_where_it_was_told():
    policy = StepPolicy(start=0.4, max_steps=5, **PLANE)
    one, other = (policy.sample(model, noise(4)) for _ in range(2))
    assert torch.equal(one.levels, other.levels)
    torch.testing.assert_close(one.levels[:, 1] / one.levels[:, 0], torch.full((4,), 0.4, dtype=torch.float64))
    assert float(one.log_pi.abs().sum().detach()) == 0


def test_a_samples_choices_do_not_depend_on_the_batch_it_is_in():
    policy = StepPolicy(max_steps=12, **PLANE)
    whole, _ = policy(model, noise(6), policy.exploration_noise(3, range(6)))
    _, part = policy(model, noise(2, 4), policy.exploration_noise(3, range(4, 6)))
    _, all_of_it = policy(model, noise(6), policy.exploration_noise(3, range(6)))
    for name in part:
        torch.testing.assert_close(all_of_it[name][4:], part[name])
    assert whole.shape == (6,)


@pytest.mark.whole
def test_where_steps_cost_much_it_learns_to_take_few_and_where_they_cost_little_it_keeps_the_quality():
    kept = {}
    for gamma in (0.6, 1.0):
        torch.manual_seed(0)
        policy = StepPolicy(gamma=gamma, max_steps=12, scale=0.3, reference_steps=16, **PLANE)
        before = train(policy, 1)
        after = train(policy, 40)
        kept[gamma] = {name: (float(before[name].mean()), float(after[name].mean())) for name in after}
    assert kept[0.6]["return"][1] > 1.5 * kept[0.6]["return"][0]
    assert kept[0.6]["steps"][1] < 0.5 * kept[0.6]["steps"][0]
    assert kept[1.0]["steps"][1] > 2 * kept[0.6]["steps"][1]
    assert kept[1.0]["reward"][1] > kept[0.6]["reward"][1]


def test_any_reward_with_the_labels_and_going_on_exactly():
    def reward(images, label):
        return torch.exp(-(images[:, 0] - label).abs())

    whole = StepPolicy(reward, max_steps=4, **PLANE)
    optimiser = torch.optim.SGD(whole.parameters(), lr=0.1)
    loss, details = whole(model, noise(4), whole.exploration_noise(0, range(4)), torch.arange(4))
    loss.mean().backward()
    optimiser.step()
    whole.learn(details)
    again = StepPolicy(reward, max_steps=4, **PLANE)
    again.load_state_dict(copy.deepcopy(whole.state_dict()))
    one, other = (p(model, noise(4), p.exploration_noise(0, range(4, 8)), torch.arange(4))[0] for p in (whole, again))
    assert torch.equal(one, other)
    assert int(again.updates) == 1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="group_size >= 2"):
        StepPolicy(group_size=1)


class Learned(torch.nn.Linear):
    """A reward with weights of its own."""

    def forward(self, images, label):
        return super().forward(images.flatten(1))[:, 0].exp()


def test_a_rewards_own_weights_are_not_the_policys():
    policy = StepPolicy(Learned(2, 1), max_steps=3, **PLANE)
    assert not [name for name, _ in policy.named_parameters() if "reward" in name]
    assert policy.state_dict().keys() == StepPolicy(max_steps=3, **PLANE).state_dict().keys()


@pytest.mark.parametrize(("value", "message"), [(-1.0, "has to be positive"), (float("nan"), "must be finite")])
def test_a_reward_that_would_be_made_larger_by_steps_is_refused(value, message):
    policy = StepPolicy(lambda images, label: torch.full((len(images),), value), max_steps=3, **PLANE)
    with pytest.raises(UserError, match=message):
        policy.rewarded(torch.zeros(4, 2), None, None)
