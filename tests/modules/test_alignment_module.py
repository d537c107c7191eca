"""Reward fine-tuning as runs: where it starts, what an epoch is, what resuming and more processes leave as it is."""

import copy
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import forked
import pytest
import torch
from safetensors.torch import load_file

from lightning_diff import load_denoiser
from lightning_diff.cli import main
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import AlignmentModule
from lightning_diff.modules.reward_epoch import RewardEpoch
from lightning_diff.nets import MLP
from lightning_diff.precision import quantized_copy
from lightning_diff.rewards import ClassLogProbability
from lightning_diff.rollouts import Advantages, Plan
from lightning_diff.rollouts.policies import Policies

PRIZES = '''
import torch
from lightning.pytorch import Callback

def right(images, label):
    """To the right, and for the even labels up."""
    return images[:, 0] + images[:, 1] * (label % 2 == 0)

def equal(images, label):
    return torch.ones(len(images))

class Drawn(Callback):
    """Every epoch's rollout and every step's examples, as text of exact numbers."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        drawn = pl_module.rollout
        with open(f"{trainer.default_root_dir}/drawn.{trainer.global_rank}", "a") as file:
            for name in ("seeds", "selected", "label", "preview", "reward", "images"):
                value = getattr(drawn, name).flatten().double().tolist()
                print(pl_module.rollout_epoch, name, *map(float.hex, value), file=file)
            for i, position in enumerate(batch["position"].tolist()):
                value = batch["x"][i].double().tolist()
                print("example", position, batch["sigma"][i].item().hex(), *map(float.hex, value), file=file)
'''
PLAN = (
    "{_target_: lightning_diff.rollouts.Plan, prompts: 4, pool: 6, keep: 4, "
    "steps: 4, preview_steps: 2, precision: bf16, batch: 12}"
)
LOSS = "{_target_: lightning_diff.rollouts.RewardLoss, levels: 2}"
ALIGN = (
    "model={_target_: lightning_diff.AlignmentModule, model: runs/start, reward: {_target_: prizes.right, _partial_: true}, "
    f"plan: {PLAN}, loss: {LOSS}, optimizer: {{_target_: torch.optim.Adam, _partial_: true, lr: 0.003}}}}"
)  # an epoch is 4 x 4 x 2 = 32 examples, 2 steps
EQUAL = "model.reward={_target_: prizes.equal, _partial_: true}"
LORA = "model.lora={_target_: lightning_diff.nets.lora.LoRA, rank: 2}"
DRAWN = "callbacks=[{_target_: prizes.Drawn}, {_target_: lightning_diff.callbacks.EMA}]"


@pytest.fixture
def align(train, tmp_path, monkeypatch):
    """align(name, *overrides): a run of four epochs; its reward is in prizes.py."""
    monkeypatch.delitem(sys.modules, "prizes", raising=False)
    (tmp_path / "prizes.py").write_text(PRIZES)
    train("start", "trainer.max_steps=2")
    return lambda name, *overrides: train(name, ALIGN, *overrides)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("more", [[], [LORA], ["model.loss.name=advantage_weighted"]], ids=["nft", "lora", "awm"])
def test_where_no_image_is_better_than_another_weights_stay_as_they_are_bit_for_bit(align, more):
    assert same(weights(align("aligned", EQUAL, "model.loss.options={kl: 0.0}", *more)), weights(Path("runs/start")))


@pytest.mark.parametrize("objective", ["nft", "advantage_weighted", "policy_gradient"])
def test_every_objective_changes_weights_and_remembers_the_old_policy(align, state, objective):
    folder = align("aligned", f"model.loss.name={objective}", "trainer.max_steps=7")
    assert not same(weights(folder), weights(Path("runs/start")))
    kept = state(folder)["alignment"]
    assert kept["rollout"]["images"].shape == (4, 4, 2)  # in the middle of an epoch
    theta = {name.removeprefix("denoiser.net."): value for name, value in state(folder)["state_dict"].items()}
    assert kept["old"].keys() == {name for name in theta if not name.startswith("weighting")}
    assert ("states" in kept["rollout"]) == (objective == "policy_gradient")


def test_the_old_policy_follows_at_the_end_of_each_epoch(align, state):
    def old_and_theta(steps, *overrides):
        checkpoint = state(align(f"to_{steps}{len(overrides)}", f"trainer.max_steps={steps}", *overrides))
        theta = {name.removeprefix("denoiser.net."): v for name, v in checkpoint["state_dict"].items()}
        return checkpoint["alignment"]["old"], theta

    start = weights(Path("runs/start"))
    assert same(old_and_theta(1)[0], start)
    (old, theta), eta = old_and_theta(2), 0.001 * 2
    assert all(torch.allclose(old[name], eta * start[name] + (1 - eta) * theta[name], atol=1e-7) for name in old)
    late = "model.old_policy={_target_: lightning_diff.rollouts.old_policy.Ramp, slope: 0.75, limit: 0.9}"
    old, theta = old_and_theta(2, late)
    assert all(torch.allclose(old[name], 0.9 * start[name] + 0.1 * theta[name], atol=1e-7) for name in old)


@pytest.mark.whole
@pytest.mark.parametrize("more", [[], [LORA], ["model.loss.name=policy_gradient"]], ids=["nft", "lora", "chain"])
def test_a_run_stopped_in_the_middle_of_an_epoch_resumes_bit_for_bit(align, state, more):
    whole = align("whole", *more, "callbacks=[{_target_: lightning_diff.callbacks.EMA}]")
    align("parts", *more, "callbacks=[{_target_: lightning_diff.callbacks.EMA}]", "trainer.max_steps=3")
    parts = align("parts", *more, "callbacks=[{_target_: lightning_diff.callbacks.EMA}]")
    assert same(weights(parts), weights(whole))
    a, b = state(whole), state(parts)
    assert same(a["state_dict"], b["state_dict"])
    assert same(a["alignment"].pop("old"), b["alignment"].pop("old"))
    assert a["alignment"] == b["alignment"]


def drawn(name: str) -> list[str]:
    """What was drawn, each line once, as every process has the same rollouts."""
    return sorted({line for path in Path("runs", name).glob("drawn.*") for line in path.read_text().splitlines()})


@pytest.mark.whole
def test_on_two_processes_prompts_seeds_selections_and_examples_are_those_of_one(align):
    align("one", DRAWN)
    align("moved", DRAWN, "trainer.max_steps=3")
    forked.run_two("train", "moved.yaml", ALIGN, DRAWN, "trainer.devices=2", "trainer.max_steps=5")
    align("moved", DRAWN)
    assert Path("runs/moved/drawn.1").exists()
    exact = ("seeds", "selected", "label")
    one, moved = drawn("one"), drawn("moved")
    epochs = [line for line in one if line.split()[1] in exact]
    assert len(epochs) == 4 * 3
    assert epochs == [line for line in moved if line.split()[1] in exact]
    # Until the first step on two processes, whose gradients add up in another order, all else is the same to the bit.
    first = [
        line
        for line in one
        if line.startswith(("0 ", "1 ")) or (line.startswith("example") and int(line.split()[1]) < 64)
    ]
    assert len(first) == 2 * 6 + 64
    assert set(first) <= set(moved)
    a, b = weights(Path("runs/one")), weights(Path("runs/moved"))
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_an_epoch_shows_every_image_at_different_levels_with_the_streams_noise(align):
    folder = align("aligned", DRAWN, "trainer.max_steps=2")
    lines = [line.split() for line in (folder / "drawn.0").read_text().splitlines()]
    examples = [
        (float.fromhex(line[2]), torch.tensor([float.fromhex(v) for v in line[3:]]))
        for line in lines
        if line[0] == "example"
    ]
    images = torch.tensor([float.fromhex(v) for v in next(line for line in lines if line[1] == "images")[2:]]).reshape(
        16, 2
    )
    levels = set(Plan(steps=4).sampling(4).sigmas[:-1].tolist())
    assert len(examples) == 32
    assert {sigma for sigma, _ in examples} <= levels
    noise = rng.normal(3, "noise", range(32), (2,))
    shown = [
        int((images - (x - sigma * noise[p])).norm(dim=1).argmin())
        for p, (sigma, x) in enumerate(examples)
        if sigma < 1
    ]
    assert shown
    assert max(map(shown.count, shown)) <= 2


@pytest.mark.whole
def test_the_reward_rises(align, state):
    far = ["trainer.max_steps=60", "model.optimizer.lr=0.01"]
    before = state(align("little", "trainer.max_steps=1"))["alignment"]["rollout"]["preview"].mean()
    after = state(align("much", "trainer.max_steps=59", *far[1:]))["alignment"]["rollout"]["preview"].mean()
    assert after > before + 0.1


def test_adapters_leave_as_plain_weights(align):
    folder = align("adapted", LORA)
    assert weights(folder).keys() == weights(Path("runs/start")).keys()
    assert not same(weights(folder), weights(Path("runs/start")))
    before = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert main(["export", "adapted"]) == 0
    assert (folder / "model.safetensors").read_bytes() == before
    assert load_denoiser(folder).kind == "denoiser"


def test_several_rewards_count_equally_each_standardised_within_its_group(align, state):
    node = "{_target_: prizes.%s, _partial_: true}"
    one = state(align("one", "trainer.max_steps=1"))["alignment"]["rollout"]
    both = state(align("both", f"model.reward=[{node % 'right'}, {node % 'equal'}]", "trainer.max_steps=1"))
    preview = both["alignment"]["rollout"]["preview"]
    expected = (one["preview"] - one["preview"].mean(1, keepdim=True)) / one["preview"].std(
        1, correction=0, keepdim=True
    )
    assert torch.allclose(preview, expected, rtol=1e-3)


def test_what_explores_is_described_once_and_its_copy_is_the_recipes(align, capsys):
    smaller = "model.copy={_target_: lightning_diff.precision.quantized_copy, _partial_: true, smallest: 16}"
    align("aligned", smaller, "model.plan.precision=nvfp4", "trainer.max_steps=3", "model.loss.name=policy_gradient")
    said = capsys.readouterr().out
    assert said.count("exploring in nvfp4: ") == 1
    assert said.count("emulated in software") == 1
    assert said.count("model.loss.eta") == 1


def reward_epoch(**options):
    """Of an untrained model of points in two classes, whose reward is how far to the right they lie."""
    policy = Denoiser(MLP((2,), num_classes=2, width=8, depth=1))
    policies = Policies(policy, copy.deepcopy(policy))
    return RewardEpoch(
        policies=policies, reward=lambda images, label: images[:, 0], classes=[0, 1], shape=(2,), seed=7, **options
    )


def test_an_epoch_is_a_function_of_its_inputs_and_leaves_them_as_they_are():
    plan = Plan(prompts=4, pool=6, keep=4, steps=3, preview_steps=2, batch=12)
    torch.manual_seed(0)
    epoch = reward_epoch()
    before = {name: value.clone() for name, value in epoch.policies.old.state_dict().items()}
    one, again, next_one = (epoch.collect(plan, number) for number in (3, 3, 4))
    for name, value in one.tensors():
        assert torch.equal(value, getattr(again, name)), name
    assert same(before, epoch.policies.old.state_dict())
    assert not set(one.seeds.flatten().tolist()) & set(next_one.seeds.flatten().tolist())
    assert epoch.total.images == {"explore/full": 3 * 24, "regenerate/full": 3 * 16}


def test_a_plan_that_leaves_processes_waiting_prints_once_what_would_not(capsys):
    epoch = reward_epoch(world=8)
    for batch in (500, 500, 576):
        plan = Plan(batch=batch)
        epoch._remark(plan, len(plan.chunks()))
    (line,) = capsys.readouterr().out.splitlines()
    assert "plan.batch=576" in line


def test_a_reward_that_says_nothing_of_this_model_is_refused():
    def make(num_classes, reward, **options):
        net = MLP((2,), num_classes=num_classes, width=16, depth=1)
        return AlignmentModule(
            "gone",
            net,
            reward=reward,
            num_classes=8,
            sigma_data=0.5,
            time="edm",
            plan=Plan(preview_steps=None),
            **options,
        )

    asks = ClassLogProbability(lambda images: images)
    make(8, [asks, asks])
    with pytest.raises(ValueError, match=r"reward: .*class"):
        make(0, asks)
    with pytest.raises(ValueError, match=r"spread: 0\.5"):
        make(8, [asks, asks], advantages=Advantages(spread=0.5))
    with pytest.raises(ValueError, match="baseline: pool"):
        make(8, [asks, asks], advantages=Advantages(baseline="pool"))
    with pytest.raises(ValueError, match=r"copy: .*plan\.precision"):
        make(8, asks, copy=partial(quantized_copy, kind="fp8"))


def test_what_does_not_go_together_is_refused_in_a_sentence(align, train):
    with pytest.raises(UserError, match=r"data\.batch_size: .* = 32 .* 48"):
        align("bad", "data.batch_size=48")
    with pytest.raises(UserError, match=r"model\.loss: options: .*gamma.*beta, kl"):
        align("bad", "model.loss.options={gamma: 1}")
    with pytest.raises(UserError, match=r"model: .*levels .*1\.\.4, got 5"):
        align("bad", "model.loss.levels=5")
    with pytest.raises(UserError, match=r"model: .*classes .*0\.\.7, got \[9\]"):
        align("bad", "model.classes=[9]")
    with pytest.raises(UserError, match=r"model\.model: runs/gone"):
        align("bad", "model.model=runs/gone")
    align("aligned", "trainer.max_steps=1")
    train("other", "trainer.max_steps=3")
    with pytest.raises(UserError, match=r"hash \w{12}, .*runs/other"):
        align("aligned", "model.model=runs/other")
    Path("runs/start").rename("runs/moved")
    train("aligned", ALIGN.replace("runs/start", "runs/moved"))


def test_prompts_keep_and_steps_stay(align):
    module = AlignmentModule("runs/start", reward=lambda images, label: images[:, 0], num_classes=8)
    module.change_plan(replace(module.plan, pool=48, preview_steps=None, precision="full"))
    assert module.plan.pool == 48
    with pytest.raises(ValueError, match="keep"):
        module.change_plan(replace(module.plan, keep=12))
