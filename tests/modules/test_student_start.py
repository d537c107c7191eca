"""A student that starts from another model than its teacher: one that was distilled before, or a denoiser."""

import json
import shutil
from contextlib import chdir
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from messages import tells
from model_files import same, weights
from on_two import trains_as_one_from

from lightning_diff.artifacts import read_record
from lightning_diff.cli import main
from lightning_diff.data import Toy
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import ConsistencyModule, TrainingData
from lightning_diff.runs import recipe
from lightning_diff.runs.describe import describe

STUDENT = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 0}"
STILL = "model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.0}"  # what it learns is nothing
CRITIC = "model.critic={_target_: lightning_diff.modules.Critic, every: 2}"
BOUNDS = "model.bounds=[-3.0, 3.0]"


@pytest.fixture(scope="module")
def trained(train_here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    with chdir(folder):
        train_here("teacher", "model.condition_dropout=0.3")
        train_here("first", STUDENT, BOUNDS)
        train_here("guided", STUDENT, "model.guidance=[1.0, 2.0]")
        train_here("other", "model.condition_dropout=0.3", "seed=9")
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
    folder = train("second", STUDENT, "model.start=runs/other/model.json", STILL, "model.warmup=64")
    assert same(weights(folder), weights(runs / "other"))
    assert not same(weights(folder), weights(runs / "teacher"))
    assert "model.warmup" not in capsys.readouterr().out
    folder = train("third", STUDENT, "model.start=first", "model.guidance=[1.0, 2.0]", STILL)
    first, third = weights(runs / "first"), weights(folder)
    assert same(first, {name: third[name] for name in first})
    assert all("guidance" in name for name in third.keys() - first.keys())
    folder = train("fourth", STUDENT, "model.start=guided", "model.guidance=[1.0, 2.0]", STILL)
    assert same(weights(folder), weights(runs / "guided"))


def test_a_warm_up_that_would_undo_the_start_is_said(train, runs, capsys):
    words = [STUDENT, "model.start=first", "model.warmup=64"]
    train("second", *words, "trainer.max_steps=4")
    warning = "warning: model.warmup: first is a consistency model"
    assert warning in capsys.readouterr().out
    assert warning in describe(recipe.load("second.yaml", [*words, "name=third"]), "second.yaml")
    train("second", *words)  # goes on
    assert warning not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("teachers", "starts", "found"),
    [((-1.0, 1.0), None, (-1.0, 1.0)), ((-1.0, 1.0), (-3.0, 3.0), (-3.0, 3.0)), (None, None, None)],
)
def test_bounds_are_those_of_the_start_or_of_the_teacher(runs, teachers, starts, found):
    for name, bounds in (("teacher", teachers), ("first", starts)):
        file = runs / name / "model.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"bounds": bounds}))
    assert ConsistencyModule("runs/teacher", start="first", warmup=0, num_classes=8).denoiser.bounds == found


def test_a_recipe_that_is_written_out_takes_the_bounds_of_a_start_too(train, runs):
    train("plain", STUDENT, "trainer.max_steps=1")
    written = recipe.load(runs / "plain", ["name=second", "model.start=first", "resume=never"])
    settings = recipe.fill_facts(written, Toy(batch_size=16, n=64, conditional=True).facts())
    assert settings["model"]["bounds"] == [-3.0, 3.0]


@pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint"
)  # Lightning does not know that the stream goes on
def test_a_trainer_of_ones_own_starts_from_the_weights_too(runs, tmp_path):
    def fit(steps, checkpoint=None):
        data = Toy(batch_size=16, n=64, conditional=True)
        still = partial(torch.optim.SGD, lr=0.0)
        module = ConsistencyModule("runs/teacher", start="first", warmup=0, num_classes=8, optimizer=still)
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": -1}
        trainer = Trainer(max_steps=steps, accelerator="cpu", default_root_dir=tmp_path, **options)
        trainer.fit(module, TrainingData(data, 0), ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "kept.ckpt")
        return module.denoiser.net.state_dict()

    first = weights(runs / "first")
    assert same(fit(1), first)
    (runs / "first" / "model.safetensors").unlink()
    assert same(fit(2, tmp_path / "kept.ckpt"), first)
    with pytest.raises(UserError, match=r"first.*no such file"):
        fit(1)


@pytest.mark.whole
def test_two_processes_and_shards_start_with_the_weights_of_one(train, runs):
    """Beside a critic, which starts as the teacher on every process, whole or in shards."""
    trains_as_one_from("first", train, STUDENT, CRITIC, "trainer.max_steps=3")


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
        (
            ["model.start=first", "model.net={width: 32}", CRITIC],
            "model.teacher: runs/teacher: weights of another network: ...",
        ),
        (["model.start=guided"], "model.start: guided: weights of another network: ... guidance ..."),
        (
            ["model.start=edm"],
            "model: time trigflow ... but edm was trained with time edm ... leave out ... or start from a model with the teacher's",
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
