"""A run loaded in a line draws what the command draws; a training returns its figures."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

import lightning_diff as ld
from lightning_diff.artifacts.metrics_rows import read
from lightning_diff.cli import main
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run
from lightning_diff.runs.sample import draw
from lightning_diff.runs.sampler_settings import SamplerSettings
from lightning_diff.runs.trained import model

DIGITS = ("data={_target_: lightning_diff.data.Digits, batch_size: 16}",)


@pytest.fixture
def digits(train):
    return train("digits", *DIGITS)


def test_samples_are_those_of_the_command(digits):
    loaded = ld.load("digits", device="cpu")  # by its name in runs/
    samples = loaded.sample(7, labels=[1, 3], steps=3, solver="euler", seed=2)
    settings = SamplerSettings(steps=3, solver="euler", seed=2, device="cpu")
    assert torch.equal(samples, draw(model(digits), settings, 7, "1,3").samples)
    for labels in ("1,3", torch.tensor([1, 3]), (1, 3)):
        assert torch.equal(samples, loaded.sample(7, labels=labels, steps=3, solver="euler", seed=2))
    assert not torch.equal(samples, loaded.sample(7, labels=1, steps=3, solver="euler", seed=2))
    assert isinstance(loaded, ld.Model)
    assert loaded.record.images == 128
    assert "128 images" in repr(loaded)
    assert loaded.denoiser(samples, torch.ones(7), torch.zeros(7, dtype=torch.int64)).shape == samples.shape


def test_a_notebook_shows_the_samples_drawn_last(digits):
    loaded = ld.load(digits)
    assert loaded._repr_png_() is None
    loaded.sample(12, steps=1, solver="euler")
    shown = Image.open(io.BytesIO(loaded._repr_png_()))
    assert shown.size == loaded.grid().size
    assert loaded.grid(columns=3).size != shown.size
    assert loaded.grid(torch.zeros(4, 3, 8, 8)).mode == "RGB"


def test_a_network_of_any_size_draws_samples_of_another_one(train, tmp_path):
    unet = "model.net={_target_: lightning_diff.nets.UNet, channels: 8, channel_mult: [1, 1], num_blocks: 1, attention: []}"
    loaded = ld.load(train("unet", *DIGITS, unet), device="cpu")
    own = loaded.sample(3, steps=1, solver="euler")
    assert torch.equal(loaded.sample(3, steps=1, solver="euler", size=(8, 8)), own)
    assert loaded.sample(3, steps=1, solver="euler", size=(6, 12)).shape == (3, 1, 6, 12)
    command = ["sample", "unet", "--n", "1", "--steps", "1", "--solver", "euler", "--size", "6", "12"]
    assert main([*command, "--out", str(tmp_path / "folder")]) == 0
    with Image.open(next((tmp_path / "folder").glob("*.png"))) as picture:
        assert picture.size == (12, 6)
    assert main(command) == 0
    assert [path.name for path in Path("runs/unet/samples").glob("*12x6*")] != []
    with pytest.raises(UserError, match=r"^size: UNet .* multiples of 2, got 7 and 8"):
        loaded.sample(3, steps=1, solver="euler", size=(7, 8))
    with pytest.raises(UserError, match=r"^size: .* 0 8"):
        loaded.sample(3, size=(0, 8))


def test_a_network_of_one_size_says_so(digits):
    with pytest.raises(UserError, match=r"^size: MLP was built for samples of shape \(1, 8, 8\)"):
        ld.load(digits).sample(3, steps=1, solver="euler", size=(8, 12))


def test_what_is_no_picture_is_not_shown(train):
    loaded = ld.load(train("toy"))
    assert loaded.sample(3, steps=1, solver="euler").shape == (3, 2)
    assert loaded._repr_png_() is None
    with pytest.raises(UserError, match=r"grid.*shape"):
        loaded.grid()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({"solver": "nosuch"}, "solver: .*heun"),
        ({"sigma_min": 3.0, "sigma_max": 1.0}, "^sigma_min, sigma_max: "),
        ({"labels": 99}, "labels: .*99"),
        ({"labels": []}, "labels: "),
        ({"guidance": 3.0}, "guidance: "),
        ({"n": 0}, "n: "),
    ],
)
def test_errors_name_arguments_rather_than_options(digits, arguments, facts):
    with pytest.raises(UserError, match=facts) as error:
        ld.load(digits).sample(**arguments)
    assert "--" not in str(error.value)


def test_a_run_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such run"):
        ld.load("nosuch")


def test_training_returns_the_last_value_of_each_metric(train, tmp_path):
    folder = train("tiny")
    figures = run.train(recipe.load(tmp_path / "tiny.yaml"), tmp_path / "tiny.yaml")  # already trained
    last = {row["metric"]: float(row["value"]) for row in read(folder / "metrics.csv")}
    assert figures == last
    assert figures["train/loss"] > 0
