"""A student that starts from another model than its teacher: one that was distilled before, or a denoiser."""

import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from messages import tells
from safetensors.torch import load_file

from lightning_diff.artifacts import read_record
from lightning_diff.cli import main
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe
from lightning_diff.runs.describe import describe

STUDENT = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 0}"
STILL = "model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.0}"  # what it learns is nothing
CRITIC = "model.critic={_target_: lightning_diff.modules.Critic, every: 2}"
BOUNDS = "model.bounds=[-3.0, 3.0]"


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(train_here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    with chdir(folder):
        train_here("teacher", "model.condition_dropout=0.3")
        train_here("first", STUDENT, BOUNDS)
        train_here("guided", STUDENT, "model.guidance=[1.0, 2.0]")
    return folder / "runs"


@pytest.fixture
def runs(trained, train):
    return shutil.copytree(trained, Path("runs"))


def test_step_0_has_the_weights_and_the_bounds_of_the_start(train, runs, capsys):
    folder = train("second", STUDENT, "model.start=first", STILL)
    assert same(weights(folder), weights(runs / "first"))
    assert not same(weights(folder), weights(runs / "teacher"))
    assert read_record(folder).bounds == (-3.0, 3.0)
    said = capsys.readouterr().out
    assert "model.start: the weights of first after 128 images" in said
    assert "model.warmup" not in said


def test_a_denoiser_may_start_it_and_a_guided_student_may_start_from_one_without_the_scale(train, runs, capsys):
    folder = train("second", STUDENT, "model.start=runs/teacher/model.json", STILL, "model.warmup=64")
    assert same(weights(folder), weights(runs / "teacher"))
    assert "model.warmup" not in capsys.readouterr().out
    folder = train("third", STUDENT, "model.start=first", "model.guidance=[1.0, 2.0]", STILL)
    first, third = weights(runs / "first"), weights(folder)
    assert same(first, {name: third[name] for name in first})
    assert all("guidance" in name for name in third.keys() - first.keys())
    folder = train("fourth", STUDENT, "model.start=guided", "model.guidance=[1.0, 2.0]", STILL)
    assert same(weights(folder), weights(runs / "guided"))


def test_a_warm_up_that_would_undo_the_start_is_said(train, runs, capsys):
    train("second", STUDENT, "model.start=first", "model.warmup=64")
    assert "model.warmup: model.start is a consistency model" in capsys.readouterr().out


def test_a_critic_beside_it_starts_as_the_teacher(train, runs, state):
    folder = train("second", STUDENT, "model.start=first", STILL, CRITIC, "trainer.max_steps=1")
    critic = {name: value for name, value in state(folder)["state_dict"].items() if "critic.denoiser" in name}
    teacher = weights(runs / "teacher")
    moved = [not torch.equal(value, teacher[name.split("denoiser.net.")[1]]) for name, value in critic.items()]
    assert any(moved)  # by its first step, of 1e-4
    for name, value in critic.items():
        torch.testing.assert_close(value, teacher[name.split("denoiser.net.")[1]], rtol=0, atol=2e-4)
    assert same(weights(folder), weights(runs / "first"))


def test_a_resumed_run_does_not_look_at_it_again(train, runs, state):
    words = [STUDENT, "model.start=runs/first"]
    whole = train("whole", *words)
    train("cut", *words, "trainer.max_steps=4")
    shutil.rmtree(runs / "first")
    assert same(weights(train("cut", *words)), weights(whole))
    assert main(["resume", "cut", "trainer.max_steps=9"]) == 0
    assert state(Path("runs/cut"))["global_step"] == 9
    with pytest.raises(UserError, match=r"model\.start: runs/first: no such model"):
        train("new", *words)
    assert not Path("runs/new").exists()


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["model.start=runs/frist"], "model.start: runs/frist: no such model"),
        (
            ["model.start=first", "model.objective=training"],
            "... objective=training starts from its teacher; leave start out",
        ),
        (["model.start=first", "model.net={width: 32}"], "model.start: first: weights of another network: ..."),
        (["model.start=guided"], "model.start: guided: weights of another network: ... guidance ..."),
        (
            ["model.start=edm"],
            "model: time trigflow ... but edm was trained with time edm ... a student starts from a model with its teacher's",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(train, runs, overrides, facts):
    if "model.start=edm" in overrides:
        train("edm")
        train("angle", "model.time=trigflow")
        overrides = [*overrides, "model.teacher=runs/angle"]
    with pytest.raises(UserError) as error:
        train("second", STUDENT, *overrides)
    message = str(error.value)
    assert tells(message, facts), message
    assert "\n" not in message
    assert not Path("runs/second").exists()


def test_a_dry_run_looks_at_its_record(train, runs):
    train("second", STUDENT, "trainer.max_steps=1")  # writes second.yaml
    words = [STUDENT, "model.start=first", "name=third"]
    assert "bounds:\n  - -3.0\n  - 3.0" in describe(recipe.load("second.yaml", words), "second.yaml")
    with pytest.raises(UserError, match="another network"):
        describe(recipe.load("second.yaml", [*words, "model.net={width: 32}"]), "second.yaml")
