"""A training on images in buckets: each step of one shape on all processes, every image once in an epoch but for the remainder."""

from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import pytest
from aspect_ratios import BUCKETS, COUNTS, OPTIONS, photographs
from messages import tells

from lightning_diff import DiffusionModule
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.data import Images
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import MLP, UNet
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

IMAGES = "{_target_: lightning_diff.data.Images, path: set, batch_size: 4, size: 16, buckets: 5, bucket_step: 4%s}"
RECIPE = f"""
seed: 5
model:
  _target_: lightning_diff.DiffusionModule
  net: {{_target_: lightning_diff.nets.UNet, channels: 16, channel_mult: [1, 1], num_blocks: 1, attention: []}}
  weighting: {{_target_: lightning_diff.weighting.MeasuredVariance, gamma: 1.0, warmup: 8, refresh: 2, min_count: 1}}
data: {IMAGES % ", flip: true"}
callbacks:
  - {{_target_: drawn_shapes.Drawn}}
  - {{_target_: lightning_diff.callbacks.Validation, n: 12, draws: 2, batch: 2, images: {IMAGES % ", limit: 20"}}}
trainer: {{accelerator: cpu, max_steps: 20, log_every_n_steps: 1}}
"""
DRAWN = """
import hashlib
from pathlib import Path

from lightning.pytorch import Callback

class Drawn(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with Path(trainer.default_root_dir, f"drawn.{trainer.global_rank}").open("a") as file:
            for i, position in enumerate(batch["position"].tolist()):
                hashes = [hashlib.sha256(batch[name][i].numpy().tobytes()).hexdigest() for name in ("image", "noise")]
                print(position, int(batch["label"][i]), *batch["image"].shape[2:], *hashes, file=file)
"""


def drawn(name: str) -> list[list[str]]:
    """What was drawn for each position, in order of position."""
    lines = [line.split() for path in Path("runs", name).glob("drawn.*") for line in path.read_text().splitlines()]
    return sorted(lines, key=lambda line: int(line[0]))


def validated(name: str) -> list[float]:
    rows = read(Path("runs", name, "metrics.csv"))
    return [float(row["value"]) for row in rows if row["metric"] == "val/loss" and row["images"] == "80"]


@pytest.mark.whole
def test_two_processes_and_a_resume_in_the_middle_of_an_epoch_show_what_one_process_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs(Path("set"))
    Path("drawn_shapes.py").write_text(DRAWN)
    for name in ("plain", "moved"):
        Path(f"{name}.yaml").write_text(RECIPE)
    run.train(recipe.load("plain.yaml", ()), "plain.yaml")
    run.train(recipe.load("moved.yaml", ("trainer.max_steps=7", "data.workers=2")), "moved.yaml")
    forked.run_two("train", "moved.yaml", "trainer.devices=2", "trainer.accumulate_grad_batches=2")

    examples = drawn("moved")
    assert examples == drawn("plain")
    assert Path("runs/moved/drawn.1").exists()
    assert [int(position) for position, *_ in examples] == list(range(80))
    for step in range(20):
        assert len({(height, width) for _, _, height, width, *_ in examples[4 * step : 4 * step + 4]}) == 1
    for epoch in (examples[:40], examples[40:]):
        left = sorted(set(range(sum(COUNTS))) - {int(label) for _, label, *_ in epoch})
        assert len(left) == sum(COUNTS) - 40
        numbers = np.searchsorted(np.cumsum(COUNTS), left, side="right")
        assert np.bincount(numbers, minlength=5).tolist() == [count % 4 for count in COUNTS]
    assert {(int(height), int(width)) for _, _, height, width, *_ in examples} == set(BUCKETS)
    assert validated("moved") == pytest.approx(validated("plain"), rel=1e-5)
    assert len(validated("moved")) == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = photographs(tmp_path_factory.mktemp("photographs") / "set")
    return Images(4, path=folder, **OPTIONS, cache="never", conditional=False)


def test_a_network_of_one_shape_is_refused(data):
    with pytest.raises(UserError) as error:
        DiffusionModule(MLP(data.shape, width=8, depth=1)).refuse_unfit_data(data)
    assert tells(str(error.value), "data.buckets: ... (3, 24, 12) ... MLP ... (3, 16, 16) ... nets.UNet ...")
    deep = UNet(data.shape, channels=8, channel_mult=[1, 1, 1, 1], num_blocks=1, attention=[])
    with pytest.raises(UserError) as error:
        DiffusionModule(deep).refuse_unfit_data(data)
    assert tells(str(error.value), "data.buckets: ... UNet ... multiples of 8, got 24 and 12 ...")


def test_a_bucket_that_fills_no_batch_is_refused_before_anything_is_trained(data):
    net = UNet(data.shape, channels=8, channel_mult=[1], num_blocks=1, attention=[])
    with pytest.raises(UserError, match="7 of 24x12"):
        DiffusionModule(net).refuse_unfit_data(replace(data, batch_size=8))


def test_a_training_on_what_the_model_draws_has_no_buckets(data):
    class Drawing(DiffusionModule):
        trains_on_images = False

    with pytest.raises(UserError) as error:
        Drawing(UNet(data.shape, channels=8, channel_mult=[1], num_blocks=1, attention=[])).refuse_unfit_data(data)
    assert tells(str(error.value), "data.buckets: Drawing ...")
