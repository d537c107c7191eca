"""A W&B run is the run folder's own, whatever the folder is called."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import WandbLogger
from messages import tells

from lightning_diff.foundation.errors import UserError
from lightning_diff.runs.loggers import WANDB_ID, identify, loggers, refused_by_wandb, release
from lightning_diff.runs.recipe.trackers import check_loggers


@pytest.fixture(autouse=True)
def wandb(monkeypatch):
    """Lightning's logger asks whether the package is there, and imports it when something is logged."""
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)


def started(folder, choice="wandb"):
    folder.mkdir(parents=True, exist_ok=True)
    (logger,) = loggers(choice, folder)
    identify([logger], folder)
    return logger._wandb_init


def test_each_run_folder_has_an_id_of_its_own_and_keeps_it(tmp_path):
    first, other, moved = (started(tmp_path / name) for name in ("runs/a", "elsewhere/a", "runs/edm,lr=0.001"))
    ids = {first["id"], other["id"], moved["id"]}
    assert len(ids) == 3
    assert all(id.isalnum() for id in ids)
    assert (first["name"], moved["name"]) == ("a", "edm,lr=0.001")
    assert started(tmp_path / "runs/a")["id"] == first["id"]
    assert (tmp_path / "runs/a" / WANDB_ID).read_text() == first["id"] + "\n"
    (tmp_path / "runs/a").rename(tmp_path / "runs/a.1")  # resume=never
    assert started(tmp_path / "runs/a")["id"] not in ids
    assert started(tmp_path / "runs/a.1")["id"] == first["id"]


def test_curves_of_version_0_1_go_on_under_the_folders_name(tmp_path):
    (tmp_path / "a" / "wandb" / "offline-run-20260101_000000-a").mkdir(parents=True)
    assert started(tmp_path / "a")["id"] == "a"
    (tmp_path / "b" / "wandb" / "run-20260101_000000-x7").mkdir(parents=True)
    assert started(tmp_path / "b")["id"] not in ("b", "x7")


def test_a_logger_object_has_it_too_unless_it_names_one(tmp_path):
    theirs = started(tmp_path / "a", WandbLogger(project="mine", save_dir=str(tmp_path)))
    assert theirs["id"] == started(tmp_path / "a")["id"]
    assert started(tmp_path / "a", WandbLogger(id="chosen", save_dir=str(tmp_path)))["id"] == "chosen"


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_diff.runs.loggers.is_first_process", lambda: False)
    assert started(tmp_path / "a")["id"] is None
    assert not list(Path(tmp_path / "a").iterdir())


def test_a_run_ends_with_its_training(tmp_path):
    class Run:
        ended = 0

        def finish(self):
            self.ended += 1

    (logger,) = loggers(["wandb"], tmp_path)
    release([logger])  # nothing was logged
    logger._experiment = run = Run()
    release([logger])
    assert run.ended == 1


def test_options_of_the_recipe_reach_wandb(tmp_path):
    own = {"wandb": {"project": "x", "group": "y", "tags": ["a", "b"], "name": "other", "mode": "offline"}}
    for choice in (own, [own]):
        given = started(tmp_path / "a", choice)
        assert (given["project"], given["group"], given["tags"]) == ("x", "y", ["a", "b"])
        assert (given["name"], given["mode"], given["dir"]) == ("other", "offline", str(tmp_path / "a"))
        assert given["id"] == (tmp_path / "a" / WANDB_ID).read_text().strip()
    both = list(loggers(["tensorboard", {"wandb": None}, own], tmp_path))
    assert [type(each).__name__ for each in both] == ["TensorBoardLogger", "WandbLogger", "WandbLogger"]
    assert len(list(loggers({"tensorboard": {"prefix": "p"}, "wandb": {}}, tmp_path))) == 2


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"wandb": {"projet": "x"}}, "trainer.logger.wandb.projet: ... project"),
        ({"wandb": {"tags": "a"}}, "trainer.logger.wandb.tags: ... list ... 'a'"),
        ([{"wandb": {"mode": "off"}}], "trainer.logger.0.wandb.mode: 'off' ... offline"),
        (["tensorboard", {"wandbb": {}}], "trainer.logger.1.wandbb: ... wandb"),
        ({"wandb": {"folder": "x"}}, "trainer.logger.wandb.folder: ..."),
        ({"wandb": ["x"]}, "trainer.logger.wandb: ..."),
        ({"tensorboard": {"flush_secs": "x"}}, "trainer.logger.tensorboard.flush_secs: ... int ... 'x'"),
        ([["wandb"]], "trainer.logger.0: ..."),
        (3, "trainer.logger: ... tensorboard, wandb"),
    ],
)
def test_a_mistake_in_the_options_is_a_sentence(choice, expected, monkeypatch):
    monkeypatch.setattr("lightning_diff.runs.recipe.trackers.is_installed", lambda name: True)
    with pytest.raises(UserError) as error:
        check_loggers(choice)
    assert tells(str(error.value), expected)


def test_options_of_a_package_that_is_absent(monkeypatch):
    monkeypatch.setattr("lightning_diff.runs.recipe.trackers.is_installed", lambda name: False)
    with pytest.raises(UserError) as error:
        check_loggers([{"wandb": {"project": "x"}}])
    assert tells(str(error.value), "trainer.logger.0.wandb: ... pip install 'lightning_diff[wandb]'")


def test_what_wandb_refuses_is_a_sentence():
    usage = type("UsageError", (Exception,), {"__module__": "wandb.errors.errors"})
    assert tells(
        refused_by_wandb(usage("api_key not\nconfigured")),
        "trainer.logger: wandb: api_key not configured ... WANDB_MODE=offline",
    )
    assert refused_by_wandb(ValueError("x")) is None
