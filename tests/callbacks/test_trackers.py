"""TensorBoard, W&B and loggers like them get every picture once, quality under eval/, and the recipe."""

import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from PIL import Image

import lightning_diff.callbacks
from lightning_diff.artifacts import checkpoints
from lightning_diff.callbacks.trackers import LOGGED, log_picture, log_values
from lightning_diff.cli import main

PICTURES = (
    "callbacks=[{_target_: lightning_diff.callbacks.SampleGrid, steps: 2, columns: 2, rows: 2, every: 48},"
    "{_target_: lightning_diff.callbacks.NoiseLevels, windows: 4},"
    "{_target_: lightning_diff.callbacks.Checkpoint, every_images: 32}]"
)
IMAGES = ("model.net={_target_: test_sample_grid.Scale}", "data={_target_: test_sample_grid.Noise, batch_size: 16}")
EVALUATION = "callbacks=[{_target_: lightning_diff.callbacks.Evaluate, n: 64, steps: 2, feature: pixels}]"


class Recorder(Logger):
    """A logger in memory."""

    made: ClassVar[list["Recorder"]] = []

    def __init__(self):
        super().__init__()
        self.rows, self.recipes, self.pictures = [], [], []
        self.made.append(self)

    name, version = "recorder", 0

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params):
        self.recipes.append(params)

    def log_image(self, key, images, step=None):
        self.pictures.append((key, step, images))


@pytest.fixture
def recorder():
    Recorder.made.clear()
    yield "trainer.logger={_target_: test_trackers.Recorder}"
    Recorder.made.clear()


@pytest.fixture
def wandb(monkeypatch):
    """W&B's package, as far as Lightning's logger and ours need it; yields the runs that were begun."""
    runs = []

    class Run:
        def __init__(self, **settings):
            self.settings, self.id, self.rows, self.recipes, self.axes = settings, settings["id"], [], [], {}
            self.config = SimpleNamespace(update=lambda params, **_: self.recipes.append(params))
            runs.append(self)

        def log(self, row):
            self.rows.append(row)

        def define_metric(self, name, step_metric=None, **_):
            self.axes[name] = step_metric

        def finish(self):
            pass

    parts = {name: ModuleType(name) for name in ("wandb", "wandb.sdk", "wandb.sdk.lib", "wandb.wandb_run")}
    parts["wandb"].__dict__.update(run=None, init=Run, Image=lambda picture, caption=None: (picture, caption))
    parts["wandb.sdk.lib"].RunDisabled, parts["wandb.wandb_run"].Run = type("RunDisabled", (), {}), Run
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    return runs


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    return found.Reload()


def test_tensorboard_has_the_pictures_of_the_run_folder_at_their_steps(train):
    folder = train("board", *IMAGES, PICTURES, "trainer.logger=tensorboard")
    found = events(folder)
    assert set(found.Tags()["images"]) == {"samples", "noise_levels"}
    samples = found.Images("samples")
    assert [picture.step for picture in samples] == [3, 6, 8]  # 48, 96 and, at the end, 128 images
    with Image.open(folder / "samples" / f"{128:012d}.png") as drawn:
        assert (samples[-1].width, samples[-1].height) == drawn.size
    assert found.Scalars("images")[-1].value == 128


def test_the_recipe_is_in_tensorboard_with_dotted_keys(train):
    folder = train("board", "trainer.logger=tensorboard")
    written = (folder / "tensorboard" / "hparams.yaml").read_text()
    assert "model.net.width: 16\n" in written
    assert "trainer.max_steps: 8\n" in written
    assert any(tag.startswith("_hparams_/") for tag in events(folder).summary_metadata)
    assert "hp_metric" not in events(folder).Tags()["scalars"]  # Lightning's, always -1
    experiment = events(folder).summary_metadata["_hparams_/experiment"]
    assert b"train/loss" in experiment.plugin_data.content  # in the table of runs


def test_a_resumed_run_sends_no_picture_twice(train):
    words = (*IMAGES, PICTURES, "trainer.logger=tensorboard")
    folder = train("board", *words)
    for path in sorted((folder / "checkpoints").glob(checkpoints.PATTERN))[1:]:
        path.unlink()  # as if the run had been killed, with its pictures already sent
        path.with_suffix(".json").unlink()
    (folder / "finished.json").unlink()
    train("board", *words)
    sent = Counter(picture.step for picture in events(folder).Images("samples"))
    assert sent == {3: 1, 6: 1, 8: 1}
    train("board", *words, "trainer.max_steps=12")
    assert set(Counter(picture.step for picture in events(folder).Images("samples")).values()) == {1}


def test_wandb_has_step_and_images_in_a_pictures_row_and_what_the_recipe_says_of_the_run(train, wandb):
    logger = "trainer.logger=[{wandb: {project: digits, group: sweep, tags: [edm, small]}}]"
    folder = train("tracked", *IMAGES, PICTURES, logger)
    (run,) = wandb
    assert {key: run.settings[key] for key in ("project", "group", "tags", "name")} == {
        "project": "digits",
        "group": "sweep",
        "tags": ["edm", "small"],
        "name": "tracked",
    }
    assert run.settings["id"] == (folder / "wandb_id.txt").read_text().strip()
    assert run.axes["*"] == "images"  # of every figure, in place of Lightning's step
    assert "images" in run.axes
    assert all("images" in row for row in run.rows)
    assert len(run.recipes) == 1
    assert run.recipes[0]["model.net._target_"] == "test_sample_grid.Scale"
    assert run.recipes[0]["callbacks.0.every"] == 48
    assert run.recipes[0]["trainer.logger.0.wandb.tags"] == ["edm", "small"]
    rows = [row for row in run.rows if "samples" in row]
    assert [(row["trainer/global_step"], row["images"]) for row in rows] == [(3, 48), (6, 96), (8, 128)]
    assert rows[0]["samples"][0][0] == str(folder / "samples" / f"{48:012d}.png")
    assert [row["trainer/global_step"] for row in run.rows if "noise_levels" in row] == [8]
    before = len(rows)
    train("tracked", *IMAGES, PICTURES, logger, "trainer.max_steps=9")
    again = wandb[1]
    assert again.settings["id"] == run.settings["id"]
    assert before + len([row for row in again.rows if "samples" in row]) == 4  # and the new end


def test_quality_is_under_eval_in_trackers_and_keeps_its_name_in_metrics_csv(train, recorder):
    folder = train("measured", EVALUATION, recorder)
    (logger,) = Recorder.made
    figures = [(step, row) for step, row in logger.rows if any(name.startswith("eval/") for name in row)]
    assert [(step, row["images"]) for step, row in figures] == [(8, 128)]
    assert "eval/frechet_pixels" in figures[0][1]
    assert not any(name.startswith(("frechet", "precision")) for _, row in logger.rows for name in row)
    assert ",frechet_pixels," in (folder / "metrics.csv").read_text()
    assert "eval/" not in (folder / "metrics.csv").read_text()
    assert len(logger.recipes) == 1


def test_any_logger_that_takes_images_has_them(train, recorder):
    folder = train("other", *IMAGES, PICTURES, recorder)
    (logger,) = Recorder.made
    sent = {(key, step) for key, step, _ in logger.pictures}
    assert sent == {("samples", 3), ("samples", 6), ("samples", 8), ("noise_levels", 8)}
    assert len(logger.pictures) == 4
    assert all(Path(picture).is_file() for _, _, pictures in logger.pictures for picture in pictures)
    assert (folder / LOGGED).is_file()


class At(Trainer):
    """A trainer at step 4, on the first process or another."""

    global_step, is_global_zero, loggers, default_root_dir = 4, True, (), ""
    lightning_module = SimpleNamespace(images_seen=64)

    def __init__(self, folder, logger, *, first=True):
        self.default_root_dir, self.loggers, self.is_global_zero = str(folder), [logger], first


def test_the_first_process_alone_logs(tmp_path, recorder):
    logger = Recorder()
    values = np.zeros((4, 4, 3), np.uint8)
    log_picture(At(tmp_path, logger, first=False), "mine", values)
    log_values(At(tmp_path, logger, first=False), {"a": 1.0})
    assert not logger.pictures
    assert not logger.rows
    log_picture(At(tmp_path, logger), "mine", values)
    log_picture(At(tmp_path, logger), "mine", values)  # the same, once
    log_picture(At(tmp_path, logger), "mine", values + 1)
    assert [(key, step) for key, step, _ in logger.pictures] == [("mine", 4), ("mine", 4)]


def test_every_callback_that_draws_logs_what_it_draws():
    for path in Path(lightning_diff.callbacks.__file__).parent.glob("*.py"):
        text = path.read_text()
        drawn = len(re.findall(r"save_grid\(|\.savefig\(|noise_levels_figure\.write\(", text))
        assert len(re.findall(r"(?<!import )log_picture\(", text)) - (path.stem == "trackers") == drawn, path


def test_the_schedule_command_sends_its_picture_to_the_runs_own_trackers(train, recorder, capsys):
    """At the model's step, once; a tracker that is gone costs nothing."""
    folder = train("run", recorder)
    Recorder.made.clear()
    line = ["schedule", "run", "--method", "tangent", "--steps", "3", "--trajectories", "2"]
    for _ in range(2):
        assert main(line) == 0
    first, again = Recorder.made
    assert [(key, step) for key, step, _ in first.pictures] == [("schedule", 8)]
    assert first.pictures[0][2] == [str(folder / "schedule.png")]
    assert again.pictures == []
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("test_trackers.Recorder", "test_trackers.Gone"))
    capsys.readouterr()
    assert main(line) == 0
    assert "schedule.png: not sent to the run's trackers: trainer.logger" in capsys.readouterr().out


def test_the_schedule_command_begins_no_run_of_its_own_in_wandb(train, wandb):
    folder = train("run", "trainer.logger=wandb")
    assert main(["schedule", "run", "--method", "tangent", "--steps", "3", "--trajectories", "2"]) == 0
    trained, added = wandb
    assert trained.id == added.id == (folder / "wandb_id.txt").read_text().strip()
    assert [list(row) for row in added.rows] == [["schedule", "images", "trainer/global_step"]]
