"""Schedules as runs: what they leave, that killing and sharing change nothing, what they refuse."""

import json
import shutil
from pathlib import Path

import forked
import pytest
import torch

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.artifacts.schedule import load_schedule
from lightning_diff.artifacts.step_policy import load_step_policy
from lightning_diff.callbacks.trackers import LOGGED
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe
from lightning_diff.runs.learn_schedule import learn_schedule
from lightning_diff.samplers import check_sigmas

ENVIRONMENT = "{_target_: lightning_diff.schedules.environments.EndPoint, solver: heun, substeps: 4}"
STICK = f"{{_target_: lightning_diff.schedules.StickBreaking, steps: 4, width: 8, environment: {ENVIRONMENT}}}"
PAPER = "{_target_: lightning_diff.schedules.ActorCritic, steps: 6, width: 8}"
POLICY = "{_target_: lightning_diff.schedules.StepPolicy, max_steps: 5, width: 8, reference_steps: 4}"
WATCH = "callbacks=[{_target_: lightning_diff.callbacks.LearnedGrid, every: 64}]"


def model(learner=STICK, where="runs/model"):
    return f"model={{_target_: lightning_diff.ScheduleModule, model: {where}, learner: {learner}}}"


def words(learner=STICK, where="runs/model"):
    return model(learner, where), f"data={{_target_: lightning_diff.data.Noise, model: {where}, batch_size: 16}}", WATCH


@pytest.fixture(scope="module")
def model_run(train_here, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("model"))
        return train_here("model", "trainer.max_steps=30").absolute()


@pytest.fixture
def trained(train, model_run):
    return Path(shutil.copytree(model_run, "runs/model"))


@pytest.mark.whole
@pytest.mark.parametrize("learner", [STICK, PAPER])
@pytest.mark.draws
def test_it_leaves_a_schedule_for_this_model_figures_and_pictures(trained, train, learner):
    folder = train("grid", *words(learner), "trainer.logger=tensorboard")
    found = load_schedule(folder)
    check_sigmas(found.grid())
    assert found.model == json.loads((trained / "model.json").read_text())["sha256"]
    assert (found.method, found.protocol["trajectories"]) == ("end_point" if learner is STICK else "art_rl", 128)
    assert found.costs["calls"] > 0
    assert not (folder / "model.safetensors").exists()
    assert {path.name for path in (folder / "samples").iterdir()} == {f"{n:012d}.png" for n in (64, 128)}
    assert [line.split(",")[1:3] for line in (folder / LOGGED).read_text().splitlines()] == [
        ["schedule", "4"],
        ["schedule", "8"],
    ]
    names = {row["metric"] for row in read(folder / "metrics.csv")}
    assert {"schedule/cost", "schedule/lambda", "schedule/spread"} <= names
    assert ("schedule/multiplier" in names) == (learner is PAPER)


def test_a_step_policy_is_left_for_this_model(trained, train, state):
    folder = train("policy", *words(POLICY))
    found = load_step_policy(folder)
    assert found.model == json.loads((trained / "model.json").read_text())["sha256"]
    assert found.protocol == {"seed": 3, "trajectories": 128, "guidance": 1.0, "reward": "fine solution"}
    assert found.costs["calls"] > 0
    kept = {name.removeprefix("learner."): value for name, value in state(folder)["state_dict"].items()}
    assert all(torch.equal(kept[name], value) for name, value in found.policy.state_dict().items())
    assert "schedule/steps" in {row["metric"] for row in read(folder / "metrics.csv")}


@pytest.mark.whole
@pytest.mark.parametrize("learner", [STICK, PAPER, POLICY])
def test_stopped_and_resumed_it_is_the_same(trained, train, state, learner):
    whole = state(train("whole", *words(learner)))
    train("parts", *words(learner), "trainer.max_steps=3")
    parts = state(train("parts", *words(learner)))
    assert whole["state_dict"].keys() == parts["state_dict"].keys()
    assert all(torch.equal(parts["state_dict"][name], value) for name, value in whole["state_dict"].items())
    assert parts["calls"] == whole["calls"]
    assert not any("denoiser" in name for name in whole["state_dict"])


@pytest.mark.whole
@pytest.mark.parametrize("learner", [STICK, POLICY])
def test_accumulated_it_learns_the_same(trained, train, state, learner):
    one = state(train("one", *words(learner)))
    two = state(train("two", *words(learner), "trainer.accumulate_grad_batches=2"))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.whole
def test_two_processes_learn_what_one_does(trained, train, tmp_path):
    one = load_schedule(train("one", *words()))
    forked.run_two("train", "one.yaml", *words(), "name=two", "trainer.devices=2")
    two = load_schedule(Path("runs/two"))
    torch.testing.assert_close(two.grid(), one.grid(), rtol=1e-4, atol=1e-6)
    assert two.costs == one.costs


def test_going_on_with_another_model_is_refused_and_with_the_same_one_elsewhere_is_not(trained, train):
    train("grid", *words(), "trainer.max_steps=3")
    train("other", "trainer.max_steps=4")
    with pytest.raises(UserError, match=r"another model: .*hash \w{12}"):
        train("grid", *words(where="runs/other"))
    trained.rename("runs/moved")
    train("grid", *words(where="runs/moved"))


def test_what_does_not_fit_is_said(trained, train):
    with pytest.raises(UserError, match=r"EMA .*denoiser"):
        train("grid", *words()[:2], "callbacks=[{_target_: lightning_diff.callbacks.EMA}]")
    with pytest.raises(UserError, match=r"MLP .*learner"):
        train("grid", *words("{_target_: lightning_diff.nets.MLP, width: 8}"))
    with pytest.raises(UserError, match=r"no such model"):
        train("grid", *words(where="runs/nobody"))


def test_a_grid_in_one_call_goes_on_where_it_was(trained):
    words = ["trainer.max_steps=4", "data.batch_size=8", "model.learner.environment.substeps=2"]
    found = learn_schedule(trained, "end_point", 3, "euler", accelerator="cpu", overrides=words)
    assert (found.steps, found.solver) == (3, "euler")
    assert found.costs["calls"] > 0
    (folder,) = (trained / "schedules").iterdir()
    assert recipe.read_yaml(folder / "recipe.yaml")["model"]["learner"]["environment"]["solver"] == "euler"
    assert learn_schedule(trained, "end_point", 3, "euler", accelerator="cpu", overrides=words) == found
