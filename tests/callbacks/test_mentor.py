"""The mentor: what it logs, when it falls back, what it chooses, and that it resumes where it was."""

import json
import sys
from pathlib import Path

import pytest
import torch

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.callbacks import Mentor
from lightning_diff.callbacks.reward_report import read_curve
from lightning_diff.callbacks.trackers import LOGGED
from lightning_diff.foundation.errors import UserError

PRIZES = """
import torch

def right(images, label):
    return images[:, 0]

def fickle(images, label):
    '''Of the last digits, which no preview gets right.'''
    return (images[:, 0] * 1e4).sin()
"""
PLAN = "{_target_: lightning_diff.rollouts.Plan, prompts: 2, pool: 12, keep: 4, steps: 6, preview_steps: 3, precision: bf16}"
LOSS = "{_target_: lightning_diff.rollouts.RewardLoss, levels: 4}"
ALIGN = (
    "model={_target_: lightning_diff.AlignmentModule, model: runs/start, reward: {_target_: prizes.right, _partial_: true}, "
    f"plan: {PLAN}, loss: {LOSS}, optimizer: {{_target_: torch.optim.Adam, _partial_: true, lr: 0.003}}}}"
)  # an epoch is 2 x 4 x 4 = 32 examples, 2 steps; 8 steps are 4 epochs
FICKLE = "model.reward={_target_: prizes.fickle, _partial_: true}"
SMALL = "model.plan.pool=4"  # which a larger one is worth twice of, at no cost to speak of
EMA = "{_target_: lightning_diff.callbacks.EMA}"


@pytest.fixture
def align(train, tmp_path, monkeypatch):
    """align(name, options of the mentor, *overrides)"""
    monkeypatch.delitem(sys.modules, "prizes", raising=False)
    (tmp_path / "prizes.py").write_text(PRIZES)
    train("start", "trainer.max_steps=2")

    def align(name: str, options: dict, *overrides: str, more: str = EMA) -> Path:
        mentor = json.dumps({"_target_": "lightning_diff.callbacks.Mentor", **options})
        return train(name, ALIGN, f"callbacks=[{mentor}, {more}]", *overrides)

    return align


def logged(folder: Path) -> dict[tuple[str, int], float]:
    return {
        (row["metric"], int(row["images"])): float(row["value"])
        for row in read(folder / "metrics.csv")
        if row["images"]
    }


def history(state, folder: Path) -> list[dict]:
    return state(folder)["callbacks"]["Mentor"]["history"]


def test_every_epoch_is_logged_with_what_it_cost(align):
    folder = align("watched", {"every": 2, "steer": False}, "trainer.max_steps=6")
    figures = logged(folder)
    assert [images for metric, images in figures if metric == "reward/kept"] == [0, 32, 64]
    assert [images for metric, images in figures if metric == "rollout/agreement"] == [0, 64]
    assert [images for metric, images in figures if metric == "train/kl"] == [32, 64, 96]
    assert figures["evaluations/explore/bf16", 32] == 2 * 12 * 3
    assert figures["evaluations/regenerate/full", 32] == 2 * 4 * 6
    assert figures["evaluations/train", 32] == 32 * 5
    assert figures["evaluations/measure/full", 64] == 2 * 12 * (6 + 2 + 3 + 4)
    assert figures["images/measure/bf16", 64] == 2 * 12 * 3
    assert ("evaluations/measure/full", 32) not in figures
    assert figures["train/kl", 96] > figures["train/kl", 32] >= 0
    assert all(figures[f"seconds/{phase}", 0] > 0 for phase in ("explore", "regenerate", "measure"))
    assert 1 <= figures["rollout/rank_top", 0] <= 12
    assert figures["rollout/agreement", 0] > 0.5
    assert figures["rollout/diversity", 0] > 0


def test_previews_that_do_not_agree_are_given_up_one_step_at_a_time(align, state):
    folder = align("fallen", {"every": None, "threshold": 0.95}, FICKLE)
    chosen = [(e["epoch"], e["preview_steps"], e["precision"]) for e in history(state, folder)]
    assert chosen == [(1, 3, "full"), (2, None, "full")]
    figures = logged(folder)
    assert ("evaluations/explore/full", 32) in figures
    assert figures["evaluations/full/full", 64] == 2 * 12 * 6


def test_among_the_highest_alone_a_low_agreement_says_little_and_changes_nothing(align, state):
    folder = align("top", {"every": None, "threshold": 0.95}, FICKLE, "model.plan.select=top")
    assert min(value for (metric, _), value in logged(folder).items() if metric == "rollout/agreement_kept") < 0.95
    assert history(state, folder) == []


def test_with_several_rewards_figures_are_of_their_raw_sum(align):
    both = "model.reward={_target_: lightning_diff.rewards.WeightedSum, weights: {b: -3.0}, rewards: "
    both += "{a: {_target_: prizes.right, _partial_: true}, b: {_target_: prizes.right, _partial_: true}}}"
    more = f"{EMA}, {{_target_: lightning_diff.callbacks.RewardReport, n: 20}}"
    steps = "trainer.max_steps=3"
    sums = logged(align("sums", {"every": 1, "steer": False}, both, steps, more=more))
    alone = logged(align("alone", {"every": 1, "steer": False}, steps, more=more))
    for name in ("mean", "a/mean"):
        assert sums[f"reward/{name}", 0] == pytest.approx(alone["reward/mean", 0] * (-2 if name == "mean" else 1))
    assert sums["reward/std", 0] == pytest.approx(2 * alone["reward/std", 0])
    for name in ("pool", "unselected"):
        assert sums[f"reward/{name}", 0] == pytest.approx(-2 * alone[f"reward/{name}", 0], rel=1e-5)
    assert sums["reward/pool_spread", 0] == pytest.approx(2 * alone["reward/pool_spread", 0], rel=1e-5)
    assert abs(sums["reward/kept", 32]) > 1e-3


def test_previews_are_measured_against_what_would_be_kept_noise_and_all(align):
    same = ["model.plan.precision=full", "model.plan.preview_steps=6", "trainer.max_steps=1"]
    assert logged(align("plain", {"every": 1, "steer": False}, *same))["rollout/agreement", 0] == 1
    folder = align("noisy", {"every": 1, "steer": False}, "model.loss.name=policy_gradient", *same)
    assert logged(folder)["rollout/agreement", 0] < 0.95


def test_it_chooses_what_is_worth_most_and_prints_it(align, state, capsys):
    options = {
        "every": 2,
        "groups": 2,
        "pools": [4, 12],
        "preview_steps": [1, 3],
        "precisions": ["full", "bf16"],
        "costs": {"bf16": 0.01},
    }
    folder = align("steered", options, "trainer.max_steps=3", SMALL)
    (entry,) = history(state, folder)
    assert entry["precision"] == "bf16"
    assert entry["pool"] == 12
    assert "mentor: from epoch 1 on a pool of 12" in capsys.readouterr().out
    assert state(folder)["alignment"]["plan"]["preview_steps"] == entry["preview_steps"]


def test_a_steered_run_stopped_anywhere_resumes_bit_for_bit(align, state):
    options = {"every": 2, "groups": 1, "pools": [4, 12], "preview_steps": [1, 3], "costs": {"bf16": 0.01}}
    whole = align("whole", options, SMALL)
    for steps in (1, 2, 5):
        align("parts", options, SMALL, f"trainer.max_steps={steps}")
    parts = align("parts", options, SMALL)
    a, b = state(whole), state(parts)
    assert a["alignment"]["plan"] == b["alignment"]["plan"]
    assert history(state, whole) == history(state, parts) != []
    assert a["alignment"]["evaluations"] == b["alignment"]["evaluations"]
    assert all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items())
    speed = ("seconds/", "images_per_second")
    one, other = (
        {key: v for key, v in logged(folder).items() if not key[0].startswith(speed)} for folder in (whole, parts)
    )
    assert one == other


@pytest.mark.draws
def test_a_report_puts_the_reward_beside_what_it_cost(align):
    report = "{_target_: lightning_diff.callbacks.RewardReport, every: 32, n: 20}"
    folder = align("reported", {"every": None}, "trainer.logger=tensorboard", more=f"{EMA}, {report}")
    curve = read_curve(folder / "metrics.csv")
    assert len(curve["reward"]) == 5
    epoch = 2 * 12 * 3 + 2 * 4 * 6 + 32 * 5
    assert curve["evaluations"] == [0, epoch, 2 * epoch, 3 * epoch, 4 * epoch]
    assert curve["images"] == [0, 32, 64, 96, 128]
    assert curve["seconds"] == sorted(curve["seconds"])
    assert (folder / "reward.png").stat().st_size > 0
    assert ",reward/curve,8," in (folder / LOGGED).read_text()


def test_what_it_cannot_watch_or_choose_is_refused(train, align):
    with pytest.raises(UserError, match=r"Mentor: .*DiffusionModule"):
        train("plain", "callbacks=[{_target_: lightning_diff.callbacks.Mentor}]")
    with pytest.raises(UserError, match=r"pools: 2 .* 4 "):
        align("bad", {"pools": [2]})
    with pytest.raises(ValueError, match="threshold"):
        Mentor(threshold=2.0)
    with pytest.raises(ValueError, match=r"Mentor: precisions .*'fp4'"):
        Mentor(precisions=["full", "fp4"])
