"""Every packaged recipe trains: two steps on the CPU, of networks of reduced width, from the start that its header names."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_diff.artifacts import load_denoiser
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.runs import recipe
from lightning_diff.runs.train import train

ROOT = Path(__file__).parents[1]
PACKAGED = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
ON_CPU = ["trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.log_every_n_steps=1"]
PICTURES = ["data.path=pictures", "data.batch_size=8", "data.workers=0"]
UNET = ["model.net.channels=32", "model.net.channel_mult=[1, 1]", "model.net.num_blocks=1"]
DIT = ["model.net.width=32", "model.net.depth=2", "model.net.heads=2", "model.net.patch_size=16"]
CLASSES = ["model.num_classes=4", "model.net.num_classes=4"]
ALONE = ["trainer.devices=1", "trainer.strategy=auto"]
SMALL_PLAN = [
    "model.plan.prompts=4",
    "model.plan.pool=4",
    "model.plan.keep=2",
    "model.plan.steps=3",
    "data.batch_size=16",
]
INK = ["model.reward={_target_: lightning_diff.rewards.Ink}"]
# What makes a recipe small; what it starts from comes first.
SMALL = {
    "digits_edm": (None, ["data.batch_size=16"]),
    "digits_scd": ("digits_edm", ["data.batch_size=16"]),
    "digits_sct": ("digits_edm", ["data.batch_size=16"]),
    "digits_art": ("digits_edm", ["data.batch_size=4", "model.learner.steps=4", "model.learner.width=8"]),
    "digits_end_point": ("digits_edm", ["data.batch_size=4", "model.learner.width=8"]),
    "digits_steps": (
        "digits_edm",
        ["data.batch_size=4", "model.learner.max_steps=3", "model.learner.reference_steps=2"],
    ),
    "digits_reward": ("digits_edm", [*SMALL_PLAN, "model.loss.levels=2"]),
    "cifar10_edm": (None, [*PICTURES, *UNET]),
    "cifar10_scd": ("cifar10_edm", PICTURES),
    "cifar10_sct": ("cifar10_edm", PICTURES),
    "cifar10_art": ("cifar10_edm", ["data.batch_size=4", "model.learner.steps=4", "model.learner.width=8"]),
    "cifar10_reward": (
        "cifar10_edm",
        [*SMALL_PLAN, *INK, "model.loss.levels=2", "data.path=pictures", "trainer.accumulate_grad_batches=2"],
    ),
    "imagenet64_dit_1b": (None, [*PICTURES, *DIT, *CLASSES, *ALONE, "data.path=large", "model.compile=false"]),
    "imagenet64_scd": ("imagenet64_dit_1b", [*PICTURES, *ALONE, "data.path=large"]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures of 32x32 and 64x64 in four classes, in which runs are trained once, each after what it starts from."""
    folder = tmp_path_factory.mktemp("recipes")
    random = np.random.default_rng(0)
    for name, side in (("pictures", 32), ("large", 64)):
        for i in range(24):
            path = folder / name / f"class{i % 4}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return folder


def trained(name: str) -> Path:
    """The run folder of a recipe in its small form, in the working folder; trained if it is not there."""
    folder, (start, words) = Path("runs") / name, SMALL[name]
    if not (folder / "finished.json").is_file():
        if start is not None:
            trained(start)
        # What measures has tests of its own; everything else that the recipe lists runs along.
        kept = [node for node in recipe.compose(name)["callbacks"] if not node["_target_"].endswith(".Evaluate")]
        settings = recipe.load(name, [*words, *ON_CPU, f"callbacks={json.dumps(kept)}"])
        train(settings, recipe.find(name))
    return folder


def test_every_packaged_recipe_has_a_small_form():
    assert sorted(SMALL) == PACKAGED


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_recipe_trains(place, monkeypatch, name):
    monkeypatch.chdir(place)
    folder = trained(name)
    assert json.loads((folder / "finished.json").read_text())["step"] == 2
    losses = [float(row["value"]) for row in read(folder / "metrics.csv") if row["metric"] == "train/loss"]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    if recipe.compose(name)["model"]["_target_"] != "lightning_diff.ScheduleModule":
        load_denoiser(folder)
