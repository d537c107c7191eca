"""Explore, select, regenerate: what is drawn, from which seeds, at what cost, and that cheap exploring changes nothing else."""

from dataclasses import replace

import pytest
import torch

from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import UNet
from lightning_diff.rewards import ClassLogProbability, WeightedSum
from lightning_diff.rollouts import Plan, added, joined, ranking, rollout
from lightning_diff.rollouts.selection import pool_seeds, prompt_labels, select
from lightning_diff.samplers.generate import generate

SHAPE = (1, 8, 8)
PLAN = Plan(prompts=4, pool=8, keep=4, steps=3, preview_steps=2, batch=16)


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    net = UNet(SHAPE, num_classes=3, channels=8, channel_mult=[1], num_blocks=1, attention=[])
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return Denoiser(net)


def ink(images, label):
    return images.mean((1, 2, 3)) + 0.1 * label


def collect(policy, plan, groups=range(4), **options):
    label = prompt_labels(7, groups, range(3))
    parts = [
        rollout(
            policy,
            ink,
            [groups[i] for i in chunk],
            label[chunk.start : chunk.stop],
            plan,
            shape=SHAPE,
            seed=7,
            **options,
        )
        for chunk in plan.chunks()
    ]
    return joined(parts)


def test_with_a_pool_of_what_is_kept_and_equal_steps_two_stages_are_plain_sampling_bit_for_bit(policy):
    same = replace(PLAN, pool=4, preview_steps=3)
    plain, two = collect(policy, replace(same, preview_steps=None)), collect(policy, same)
    for name in ("seeds", "selected", "preview", "reward", "images"):
        assert torch.equal(getattr(two, name), getattr(plain, name)), name
    seeds = pool_seeds(7, range(4), 4)
    label = prompt_labels(7, range(4), range(3)).repeat_interleave(4)
    images = generate(
        policy,
        SHAPE,
        seeds.flatten().numpy(),
        label,
        sigmas=PLAN.sampling(3).sigmas,
        solver="dpmpp_2m",
        seed=7,
        batch=16,
    )
    assert torch.equal(plain.images.flatten(0, 1), images)


def test_what_is_kept_are_the_best_and_the_worst_previews_drawn_again_in_full(policy):
    got = collect(policy, PLAN)
    seeds, label = pool_seeds(7, range(4), 8), prompt_labels(7, range(4), range(3))
    for g in range(4):
        previews = generate(
            policy,
            SHAPE,
            seeds[g].numpy(),
            label[g].expand(8),
            sigmas=PLAN.sampling(2).sigmas,
            solver="dpmpp_2m",
            seed=7,
        )
        score = ink(previews.clamp(-1, 1), label[g]).double()
        assert torch.allclose(got.preview[g], score, atol=1e-6)
        order = score.argsort(descending=True)
        assert got.selected[g].tolist() == sorted([*order[:2].tolist(), *order[-2:].tolist()])
        again = generate(
            policy,
            SHAPE,
            seeds[g, got.selected[g]].numpy(),
            label[g].expand(4),
            sigmas=PLAN.sampling(3).sigmas,
            solver="dpmpp_2m",
            seed=7,
        )
        assert torch.allclose(got.images[g], again, atol=1e-5)
        assert torch.allclose(got.reward[g], ink(again.clamp(-1, 1), label[g]).double(), atol=1e-6)
    assert not torch.equal(got.reward, got.preview.gather(1, got.selected))


def test_groups_drawn_apart_are_the_same_bits(policy):
    whole = collect(policy, PLAN)
    first, second = (
        rollout(policy, ink, [g, g + 1], prompt_labels(7, [g, g + 1], range(3)), PLAN, shape=SHAPE, seed=7)
        for g in (0, 2)
    )
    for name in ("seeds", "preview", "selected", "images", "reward"):
        assert torch.equal(getattr(joined([first, second]), name), getattr(whole, name)), name


def test_a_larger_pool_begins_as_a_smaller_one_and_no_two_groups_share_a_seed():
    large, small = pool_seeds(7, range(10), 96), pool_seeds(7, range(10), 24)
    assert torch.equal(large[:, :24], small)
    assert len(large.unique()) == 960
    assert int(large.min()) >= 0
    assert not torch.equal(pool_seeds(8, [0], 24), small[:1])


def test_prompts_are_all_classes_in_turn():
    label = prompt_labels(7, range(9), [4, 5, 6])
    assert all(sorted(label[i : i + 3].tolist()) == [4, 5, 6] for i in (0, 3, 6))
    assert torch.equal(prompt_labels(7, [5], [4, 5, 6]), label[5:6])


def test_the_low_precision_copy_explores_and_the_policy_draws_what_is_kept(policy):
    def never(x, sigma, label):
        return torch.zeros_like(x)

    got = collect(policy, replace(PLAN, precision="nvfp4"), preview=never)
    assert got.preview.std(1).abs().max() == 0  # previews of nothing
    assert got.reward.std() > 0
    assert got.selected[0].tolist() == [0, 1, 6, 7]  # of equal ones the earlier are the higher


def test_a_second_selection_is_by_the_final_reward(policy):
    got = collect(policy, replace(PLAN, regenerate=6))
    everything = collect(policy, replace(PLAN, regenerate=6, keep=6))
    places = select(everything.reward, 4)
    assert torch.equal(got.selected, everything.selected.gather(1, places))
    assert torch.equal(got.images, everything.images[torch.arange(4)[:, None], places])


def test_without_exploring_the_pool_is_drawn_in_full_and_the_extremes_are_kept(policy):
    got = collect(policy, replace(PLAN, preview_steps=None))
    assert torch.equal(got.reward, got.preview.gather(1, got.selected))
    assert torch.equal(got.reward.max(1).values, got.preview.max(1).values)
    assert torch.equal(got.reward.min(1).values, got.preview.min(1).values)


def test_what_each_phase_costs_is_counted(policy):
    counts = {
        (c.phase, c.precision): c[2:4] for c in collect(policy, replace(PLAN, precision="fp8"), preview=policy).counts
    }
    assert counts == {("explore", "fp8"): (32, 64), ("regenerate", "full"): (16, 48)}
    heun = collect(policy, replace(PLAN, preview_steps=None, solver="heun")).counts
    assert [c[:4] for c in heun] == [("full", "full", 32, 32 * 5)]
    assert added([*heun, *heun])[0].images == 64


def test_a_sum_of_rewards_is_standardised_in_each_group_for_itself(policy):
    both = WeightedSum({"ink": ink, "left": lambda images, label: images[..., :4].mean((1, 2, 3))}, {"left": 0.5})
    got = rollout(policy, both, [0, 1], torch.tensor([1, 1]), PLAN, shape=SHAPE, seed=7)
    assert torch.allclose(got.preview.mean(1), torch.zeros(2, dtype=torch.float64), atol=1e-6)
    alone = rollout(policy, both, [1], torch.tensor([1]), PLAN, shape=SHAPE, seed=7)
    assert torch.allclose(got.preview[1:], alone.preview, atol=1e-4)


def test_of_a_standardised_sum_the_raw_one_is_kept_beside_it(policy):
    def left(images, label):
        return images[..., :4].mean((1, 2, 3))

    def raw(images):
        shown, classes = images.clamp(-1, 1).flatten(0, 1), label.repeat_interleave(images.shape[1])
        return (ink(shown, classes) - 0.5 * left(shown, classes)).double().unflatten(0, images.shape[:2])

    parts, label = {"ink": ink, "left": left}, torch.tensor([1, 2])
    both = WeightedSum(parts, {"left": -0.5})
    for plan in (PLAN, replace(PLAN, preview_steps=None)):
        got = rollout(policy, both, [0, 1], label, plan, shape=SHAPE, seed=7)
        assert torch.allclose(got.raw_reward, raw(got.images), atol=1e-6)
        assert got.raw_preview.shape == got.preview.shape
    assert torch.allclose(got.raw_preview.gather(1, got.selected), got.raw_reward)
    plain = WeightedSum(parts, {"left": -0.5}, normalise="none")
    got = rollout(policy, plain, [0, 1], label, PLAN, shape=SHAPE, seed=7)
    assert got.reward_sum is None
    assert torch.allclose(got.reward, raw(got.images), atol=1e-6)


def test_rewards_that_cannot_score_groups_one_by_one_or_need_a_class_that_is_not_there_are_refused(policy):
    batch = WeightedSum({"ink": ink}, normalise="batch")
    with pytest.raises(ValueError, match=r"normalise: batch"):
        rollout(policy, batch, [0], torch.tensor([1]), PLAN, shape=SHAPE, seed=7)
    asks = ClassLogProbability(lambda images: images.flatten(1)[:, :3])
    for reward in (asks, WeightedSum({"class": asks, "ink": ink})):
        with pytest.raises(ValueError, match=r"reward: .*class"):
            rollout(policy, reward, [0], None, PLAN, shape=SHAPE, seed=7)
    rollout(policy, asks, [0], torch.tensor([1]), PLAN, shape=SHAPE, seed=7)
    rollout(policy, ink, [0], None, PLAN, shape=SHAPE, seed=7)


def test_the_stochastic_sampler_keeps_its_chains(policy):
    got = collect(policy, PLAN, eta=1.0)
    assert got.states.shape == (4, 4, 4, *SHAPE)
    assert got.log_prob.shape == (4, 4, 2)
    assert torch.equal(got.states[:, :, -1], got.images)
    noise = rng.normal(7, "sample", got.seeds.gather(1, got.selected).flatten().numpy(), SHAPE)
    assert torch.equal(got.states[:, :, 0].flatten(0, 1), 80 * noise)


@pytest.mark.parametrize(
    ("mode", "keep", "places"),
    [
        ("extremes", 4, [0, 1, 2, 4]),
        ("extremes", 3, [1, 2, 4]),
        ("top", 3, [1, 2, 3]),
        ("mean_deviation", 2, [1, 4]),
        ("extremes", 6, [0, 1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_modes_of_selection(mode, keep, places):
    score = torch.tensor([[1.0, 9.0, 4.0, 3.0, -8.0, 2.0]])
    assert select(score, keep, mode).tolist() == [places]


def test_random_modes_depend_on_the_rows_key_alone():
    score = torch.tensor([[1.0, 9.0, 4.0, 3.0, -8.0, 2.0]]).repeat(2, 1)
    for mode in ("random", "extremes_random"):
        one, other = select(score, 4, mode, [5, 6]), select(score, 4, mode, [6, 5])
        assert torch.equal(one, other.flip(0))
        assert all(len(set(row)) == 4 for row in one.tolist())
    assert all({1, 4} <= set(row) for row in select(score, 4, "extremes_random", [5, 6]).tolist())
    drawn = torch.stack([select(score[:1], 2, "random", [key])[0] for key in range(600)]).flatten().bincount()
    assert drawn.min() > 150  # of 200 expected


def test_an_even_batch_gives_every_process_as_many_images():
    plan = Plan(prompts=48, pool=96, batch=384)
    assert len(plan.chunks()) % 8  # 12 chunks: some draw two, some one
    for processes in (1, 2, 3, 8, 16):
        even = replace(plan, batch=plan.even_batch(processes))
        shares = [sum(map(len, even.chunks()[rank::processes])) for rank in range(processes)]
        assert len(set(shares)) == 1, processes
    assert replace(plan, batch=600).even_batch(8) == 576
    assert plan.even_batch(5) is None


def test_bad_plans_and_rewards_are_refused(policy):
    with pytest.raises(ValueError, match=r"Plan: .*24, 24 and 12"):
        Plan(pool=12)
    with pytest.raises(ValueError, match=r"preview_steps .*got 0"):
        Plan(preview_steps=0)
    with pytest.raises(ValueError, match=r"preview_steps"):
        Plan(preview_steps=None, precision="fp8")
    with pytest.raises((ValueError, TypeError), match="'fp4'"):  # TypeError of the annotations, which tests check
        Plan(precision="fp4")
    label = torch.zeros(1, dtype=torch.int64)
    for bad, said in (
        (lambda i, y: i.mean(), "must return a tensor"),
        (lambda i, y: i.mean((1, 2, 3)) / 0, "must be finite"),
    ):
        with pytest.raises(UserError, match=said):
            rollout(policy, bad, [0], label, PLAN, shape=SHAPE, seed=7)


def test_spearman_is_pearsons_correlation_of_ranks_and_chance_is_the_middle():
    a, b = torch.randn(3, 50, dtype=torch.float64), torch.randn(3, 50, dtype=torch.float64)
    expected = [
        torch.corrcoef(torch.stack([x.argsort().argsort(), y.argsort().argsort()]).double())[0, 1]
        for x, y in zip(a, b, strict=True)
    ]
    assert torch.allclose(ranking.spearman(a, b), torch.stack(expected))
    assert torch.allclose(ranking.spearman(a, a.exp()), torch.ones(3, dtype=torch.float64))
    assert ranking.ranks(torch.tensor([3.0, 1.0, 3.0, 0.0])).tolist() == [1.5, 3.0, 1.5, 4.0]
    order = a.argsort(1, descending=True)
    assert ranking.chosen_ranks(a, order[:, :12], order[:, -12:]) == (6.5, 44.5)
    assert ranking.mean_spearman(torch.ones(2, 4), torch.randn(2, 4)) == 0
    assert ranking.mean_spearman(torch.ones(2, 4), torch.zeros(2, 4)) == 1
