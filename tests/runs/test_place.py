"""A run goes on in the folder that it lies in, wherever that was moved; a recipe of one's own makes a folder by its name."""

import shutil
from pathlib import Path

import pytest
import torch
from messages import tells

from lightning_diff.artifacts import places, read_record
from lightning_diff.cli import main
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe
from lightning_diff.runs.train import train as run


@pytest.fixture
def moved(train):
    """A run of 4 of 8 steps, moved and renamed."""
    train("first", "trainer.max_steps=4")
    Path("elsewhere").mkdir()
    return Path(shutil.move("runs/first", "elsewhere/second"))


@pytest.mark.whole
@pytest.mark.parametrize(
    "line", ["resume elsewhere/second", "train elsewhere/second", "train elsewhere/second/recipe.yaml"]
)
def test_a_moved_run_goes_on_where_it_lies(moved, state, train, capsys, line):
    assert main([*line.split(), "trainer.max_steps=8"]) == 0
    out = capsys.readouterr().out
    assert "continuing from elsewhere/second/checkpoints/step_00000004.ckpt" in out
    assert list(Path("runs").iterdir()) == []
    kept = recipe.read_yaml(moved / "recipe.yaml")
    assert (kept["name"], kept["runs_dir"]) == ("second", "elsewhere")
    whole = state(train("whole"))
    for name, value in state(moved)["state_dict"].items():
        assert torch.equal(value, whole["state_dict"][name]), name


def test_from_inside_the_folder_too(moved, monkeypatch):
    monkeypatch.chdir(moved)
    made = recipe.compose("recipe.yaml")
    assert Path(made["runs_dir"], made["name"]) == Path.cwd()
    assert recipe.find(".") == Path("recipe.yaml")


def test_a_run_that_was_not_moved_keeps_what_its_recipe_says(train):
    train("stays", "trainer.max_steps=4")
    made = recipe.compose("runs/stays")
    assert (made["name"], made["runs_dir"]) == ("stays", "runs")
    assert recipe.compose("stays") == made  # its name is enough


def test_how_the_run_began_is_not_done_again(moved):
    text = (moved / "recipe.yaml").read_text()
    for word in ("never", "required", "force", "runs/teacher/checkpoints/step_00000001.ckpt"):
        (moved / "recipe.yaml").write_text(text.replace("resume: auto", f"resume: {word}"))
        assert recipe.compose(moved)["resume"] == "auto"
    assert recipe.compose(moved, ["resume=never"])["resume"] == "never"


def test_another_name_or_place_makes_another_run(moved):
    assert recipe.compose(moved, ["name=third"])["name"] == "third"
    assert recipe.compose(moved, ["runs_dir=there"])["runs_dir"] == "there"


def test_a_recipe_of_that_name_that_is_no_runs_and_one_that_extends_a_runs_are_plain_recipes(moved, tmp_path):
    shutil.copy(moved / "recipe.yaml", "recipe.yaml")
    made = recipe.compose("recipe.yaml")
    assert (made["name"], made["runs_dir"]) == ("first", "runs")
    (tmp_path / "child.yaml").write_text("extends: elsewhere/second/recipe.yaml\nseed: 9\n")
    made = recipe.compose("child.yaml")
    assert (made["name"], made["runs_dir"], made["seed"]) == ("child", "runs", 9)


def test_a_copy_is_a_run_of_its_own(moved):
    shutil.copytree(moved, "elsewhere/copy")
    assert main(["resume", "elsewhere/copy", "trainer.max_steps=6"]) == 0
    assert (Path("elsewhere/copy/checkpoints") / "step_00000006.ckpt").exists()
    assert not (moved / "checkpoints" / "step_00000006.ckpt").exists()


def test_what_decides_the_training_is_still_refused(moved, capsys):
    assert main(["resume", str(moved), "trainer.max_steps=8", "seed=4"]) == 2
    assert tells(capsys.readouterr().err.splitlines()[-1], "error: elsewhere/second: ... seed was 3, is 4")


def test_what_cannot_be_resumed_is_said(moved, capsys):
    def fails(*words: str) -> str:
        capsys.readouterr()
        assert main(words) == 2
        return capsys.readouterr().err

    assert tells(fails("resume", "elsewhere/secnd"), "error: elsewhere/secnd: ... run")
    assert tells(fails("resume", str(moved), "other"), "error: resume: other ... key=value")
    Path("plain").mkdir()
    assert tells(fails("resume", "plain"), "error: plain: ... recipe.yaml")
    assert tells(fails("train", "plain"), "error: plain: ... folder")
    shutil.rmtree(moved / "checkpoints")
    assert tells(fails("resume", str(moved)), "error: resume: ... elsewhere/second/checkpoints ... resume=auto")


def test_a_name_is_a_run_and_not_a_folder_beside_it(train):
    """Data in pets/, a run in runs/pets."""
    trained, at = train("pets", "trainer.max_steps=1"), Path("pets")
    at.mkdir()
    (at / "a.png").touch()
    for line in ("doctor pets", "resume pets", "sample pets --n 2 --steps 1", "train pets", "export pets"):
        assert main(line.split()) == 0
    assert places.find("pets") == trained
    assert read_record("pets").images == 16
    train("taught", "model.start=pets", "trainer.max_steps=1")


def test_a_name_of_two_runs_is_the_one_at_the_path_and_that_is_said(moved, train):
    train("elsewhere/second", "trainer.max_steps=1", "name=second")
    Path("runs/elsewhere").mkdir()
    shutil.move("runs/second", "runs/elsewhere/second")
    with pytest.warns(UserWarning, match="elsewhere/second: is elsewhere/second and runs/elsewhere/second"):
        assert places.find("elsewhere/second") == moved
    with pytest.warns(UserWarning, match="runs/elsewhere/second"):
        assert recipe.find("elsewhere/second") == moved / "recipe.yaml"


def test_a_name_of_recipes_is_a_path_then_a_packaged_one_then_a_run(train):
    packaged = recipe.find("digits_edm")
    assert packaged == recipe.packaged()["digits_edm"]
    train("digits_edm", "trainer.max_steps=1")
    assert recipe.find("digits_edm") == packaged  # which goes on in runs/digits_edm
    with pytest.raises(UserError, match=r"digits\.yml: no such recipe"):
        recipe.find("digits.yml")
    shutil.move("digits_edm.yaml", "mine.yaml")
    with pytest.raises(UserError, match=r"mine: no such recipe; did you mean mine\.yaml"):
        recipe.find("mine")
    shutil.move("runs/digits_edm", "digits_edm")
    with pytest.warns(UserWarning, match=r"digits_edm: is digits_edm/recipe\.yaml and .*digits_edm\.yaml"):
        assert recipe.find("digits_edm") == Path("digits_edm/recipe.yaml")


def test_two_names_of_one_folder_are_one_folder(moved, capsys):
    assert main(["train", str(moved), str(moved.resolve() / "recipe.yaml")]) == 2
    assert tells(capsys.readouterr().err, "error: ... name: ... elsewhere/second")


def test_a_run_folder_that_lost_its_recipe_is_no_recipe(moved):
    (moved / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        run(recipe.load(moved), moved)
