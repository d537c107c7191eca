"""A run on latents: model.json names the autoencoder, and whoever looks at samples sees images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import tells
from PIL import Image
from tiny_autoencoder import Halves

import lightning_diff as ld
from lightning_diff.artifacts import load_autoencoder, pictures
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.data import Digits
from lightning_diff.foundation import caches
from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import Reference
from lightning_diff.runs.evaluate import evaluate
from lightning_diff.runs.export import export
from lightning_diff.runs.sample import sample
from lightning_diff.runs.sampler_settings import SamplerSettings

LATENTS = (
    "data={_target_: lightning_diff.data.Latents, batch_size: 16, source: {_target_: lightning_diff.data.Digits, batch_size: 1}, "
    "autoencoder: {_target_: lightning_diff.autoencoders.Pair, module: {_target_: tiny_autoencoder.Halves}, scale: 1.4}}"
)
SETTINGS = SamplerSettings(steps=2, solver="euler", device="cpu")


@pytest.fixture(scope="module")
def folder(train_here, tmp_path_factory):
    """One training for all."""
    place = tmp_path_factory.mktemp("latent")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv(caches.OWN, str(place / "cache"))
        run = train_here(
            "digits",
            LATENTS,
            "callbacks=[{_target_: lightning_diff.callbacks.SampleGrid, columns: 2, rows: 2, steps: 2}, "
            "{_target_: lightning_diff.callbacks.Evaluate, n: 80, feature: pixels, steps: 2}]",
        )
    return place / run


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(caches.OWN, str(folder.parents[1] / "cache"))


def drawn(folder, **options):
    return ld.load(folder, device="cpu").sample(4, steps=2, solver="euler", **options)


def test_the_model_names_its_autoencoder_and_loads_with_it(folder):
    record = json.loads((folder / "model.json").read_text())
    assert record["format"] == 3
    assert record["autoencoder"]["module"] == {"_target_": "tiny_autoencoder.Halves"}
    autoencoder = load_autoencoder(folder)
    assert autoencoder.image_shape(record["shape"]) == (1, 8, 8)
    assert str(autoencoder.normalisation) == "scale 1.4, shift 0"


def test_samples_are_decoded_latents(folder, tmp_path):
    latents, images = drawn(folder, latents=True), drawn(folder)
    assert latents.shape == (4, 1, 4, 4)
    torch.testing.assert_close(images, Halves().decode(latents / 1.4))
    for name in ("a.npz", "b.png", "c"):
        sample(folder, SETTINGS, 4, out=tmp_path / name)
    with np.load("a.npz") as archive:
        assert (4, 8, 8, 1) in [archive[name].shape for name in archive.files]
    with Image.open(next(Path("c").glob("*.png"))) as picture:
        assert picture.size == (8, 8)
    kept = sample(folder, SETTINGS, 4, latents=True).target
    assert kept.suffix == ".png"  # one channel: a picture all the same


def test_another_size_is_that_of_the_images(train):
    unet = (
        "model.net={_target_: lightning_diff.nets.UNet, channels: 8, channel_mult: [1], num_blocks: 1, attention: []}"
    )
    run = train("unet", LATENTS, unet, "trainer.max_steps=1")
    assert drawn(run, size=(8, 12)).shape == (4, 1, 8, 12)
    assert drawn(run, size=(8, 12), latents=True).shape == (4, 1, 4, 6)


def test_grids_and_figures_see_images(folder):
    with Image.open(next((folder / "samples").glob("0*.png"))) as grid:
        assert grid.size == pictures.grid(torch.zeros(4, 1, 8, 8), 2).size
    rows = {row["metric"]: row for row in read(folder / "metrics.csv") if row.get("reference")}
    assert rows["frechet_pixels"]["reference"] == Reference(Digits(batch_size=1), "pixels").hash


def test_evaluate_measures_decoded_samples_against_the_source_s_images_and_needs_no_latents(
    folder, monkeypatch, tmp_path
):
    monkeypatch.setenv(caches.OWN, str(tmp_path / "none"))
    from lightning_diff.runs.against import Against

    found = evaluate(folder, SETTINGS, 80, against=Against(feature="pixels"))
    assert not (tmp_path / "none" / "latents").exists()
    assert found.rows[0].protocol.reference == Reference(Digits(batch_size=1), "pixels").hash


def test_rewards_see_images(train, folder):
    Path("runs").mkdir()
    shutil.copytree(folder, "runs/teacher")
    seen = "{_target_: tiny_autoencoder.Sized, side: 8}"
    run = train(
        "rewarded",
        f"model={{_target_: lightning_diff.AlignmentModule, model: runs/teacher, reward: {seen}}}",
        "model.plan={_target_: lightning_diff.rollouts.Plan, prompts: 2, pool: 4, keep: 2, steps: 2, preview_steps: 1}",
        "model.loss={_target_: lightning_diff.rollouts.RewardLoss, levels: 1}",
        "data={_target_: lightning_diff.data.Noise, model: runs/teacher, batch_size: 4}",
        "callbacks=[{_target_: lightning_diff.callbacks.RewardReport, n: 4, rows: 2, columns: 2}, "
        "{_target_: lightning_diff.callbacks.Mentor, every: 1, groups: 1}]",
        "trainer.max_steps=2",
    )
    assert json.loads((run / "model.json").read_text())["autoencoder"] is not None
    assert drawn(run).shape == (4, 1, 8, 8)


def test_a_moved_run_and_an_exported_one_find_their_autoencoder(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    export(tmp_path / "elsewhere", tmp_path / "out")
    for place in ("elsewhere", "out"):
        assert drawn(tmp_path / place).shape == (4, 1, 8, 8)


def test_what_is_wrong_with_the_autoencoder_is_told(folder, tmp_path, train):
    plain = train("plain")
    with pytest.raises(UserError) as error:
        sample(plain, SETTINGS, 2, latents=True)
    assert tells(str(error.value), "--latents: runs/plain has no autoencoder ...")
    for harm, said in (
        ({"_target_": "os.system", "command": "x"}, "... autoencoder._target_: os.system is no autoencoder ..."),
        ({"_target_": "lightning_diff.autoencoders.Pair", "module": {"_target_": "os.system"}}, "... os.system ..."),
        ({"_target_": "torch.nn.Identity"}, "... autoencoder ..."),
        (
            {"_target_": "lightning_diff.autoencoders.Diffusers", "folder": "/nowhere"},
            "... /nowhere: no such folder ...",
        ),
    ):
        shutil.rmtree(tmp_path / "harmed", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "harmed")
        record = json.loads((folder / "model.json").read_text()) | {"autoencoder": harm}
        (tmp_path / "harmed" / "model.json").write_text(json.dumps(record))
        with pytest.raises(UserError) as error:
            drawn(tmp_path / "harmed")
        assert tells(str(error.value), f"{tmp_path / 'harmed' / 'model.json'}: {said}"), str(error.value)
