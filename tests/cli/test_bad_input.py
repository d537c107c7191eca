"""What a person gets wrong: exit code 2 and one line that says where and what, no traceback, and nothing lost.

All through the command line's `main`, from the misspelling in a recipe to the file that stands in the way.
"""
# ruff: noqa: E501 (messages stand on one line)

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_diff.artifacts import checkpoints
from lightning_diff.cli import main

TINY = """
name: tiny
seed: 3
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: lightning_diff.nets.MLP, width: 16, depth: 1}
data: {_target_: lightning_diff.data.Toy, n: 256, batch_size: 16}
callbacks:
  - {_target_: lightning_diff.callbacks.EMA}
trainer: {accelerator: cpu, max_steps: 2, log_every_n_steps: 1}
"""
PARTS = """
import numpy as np

class Images:
    '''64 grey pictures with labels 0, 1, 2; the subclasses spoil number 40.'''
    label = property(lambda self: 1)
    def __len__(self):
        return 64
    def __getitem__(self, i):
        picture = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8) * (1 if i % 2 else -1)
        return (self.spoilt(picture), i % 3) if i == 40 else (picture, i % 3)
class HoldsNaN(Images):
    def spoilt(self, picture):
        return picture * np.nan
class OtherSize(Images):
    def spoilt(self, picture):
        return picture[:, :4]
class BadLabel(Images):
    def __getitem__(self, i):
        return super().__getitem__(i)[0] if i == 40 else (super().__getitem__(i)[0], -3 if i == 5 else 1)
    def spoilt(self, picture):
        return picture
class Empty(Images):
    def __len__(self):
        return 0
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with recipes, good and bad data, and one run of two steps."""
    folder = tmp_path_factory.mktemp("work")
    before = Path.cwd(), list(sys.path)
    os.chdir(folder)
    Path("tiny.yaml").write_text(TINY)
    Path("parts_of_bad_input.py").write_text(PARTS)
    Path("broken.yaml").write_text("a: [1, 2\nb: }")
    Path("list.yaml").write_text("- 1\n- 2\n")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00\x9f")
    Path("afile").write_text("x")
    Path("no_images").mkdir()
    for name in ("mixed", "damaged", "labels", "labels_missing", "constant"):
        Path(name).mkdir()
        for i in range(6):
            size = (9, 8) if (name, i) == ("mixed", 5) else (8, 8)
            pixels = np.full(size, 7) if name == "constant" else np.random.default_rng(i).integers(0, 256, size)
            Image.fromarray(pixels.astype(np.uint8)).save(f"{name}/{i}.png")
    Path("damaged/2.png").write_bytes(Path("damaged/2.png").read_bytes()[:60])
    Path("damaged/4.png").write_text("no picture")
    for name, labels in {"labels": [0, 1, -1, 0, 1, 2], "labels_missing": [0, 1, 2, 0, 1]}.items():
        pairs = [[f"{i}.png", label] for i, label in enumerate(labels)]
        Path(name, "dataset.json").write_text(json.dumps({"labels": pairs}))
    with zipfile.ZipFile("empty.zip", "w"):
        pass
    assert main(["train", "tiny.yaml"]) == 0
    shutil.copytree("runs/tiny", "runs/unmodelled")
    Path("runs/unmodelled/model.json").unlink()
    shutil.copytree("runs/tiny", "runs/empty_recipe")
    Path("runs/empty_recipe/recipe.yaml").write_text("")
    yield folder
    os.chdir(before[0])
    sys.path[:] = before[1]


@pytest.fixture
def fails(trained, capsys):
    """fails(*words): the message of a command that exits with 2; it changes no file of the run that is there."""

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path("runs/tiny").rglob("*") if path.is_file()}

    def fails(*words: str) -> str:
        before = content()
        capsys.readouterr()
        assert main(words) == 2
        assert content() == before
        lines = capsys.readouterr().err.splitlines()
        assert "Traceback" not in "\n".join(lines)
        (message,) = (line for line in lines if line and " images [" not in line)  # the progress bar's
        assert message.startswith("error: ")
        return message.removeprefix("error: ")

    return fails


def test_the_same_command_without_a_mistake_succeeds(trained, capsys):
    assert main(["train", "tiny.yaml"]) == 0
    assert "already trained to step 2" in capsys.readouterr().out


IMAGES = "data={_target_: lightning_diff.data.Images, batch_size: 4, path: %s}"
MAPPED = "data={_target_: lightning_diff.data.MapDataset, batch_size: 16, dataset: {_target_: parts_of_bad_input.%s}}"
OPTIMIZER = "model.optimizer={_target_: torch.optim.Adam, _partial_: true, %s}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # misspelt keys, at each level
        ("modle.x=1", "tiny.yaml: modle: unknown key of a recipe; did you mean model?"),
        ("model.nett=1", "tiny.yaml: model.nett: unknown key of lightning_diff.DiffusionModule; did you mean net?"),
        ("model.net.widht=3", "tiny.yaml: model.net.widht: unknown key of lightning_diff.nets.MLP; did you mean width?"),
        (OPTIMIZER % "lrr: 1", "tiny.yaml: model.optimizer.lrr: unknown key of torch.optim.Adam; did you mean lr?"),
        ("data.densty=ring", "tiny.yaml: data.densty: unknown key of lightning_diff.data.Toy; did you mean density?"),
        ("callbacks.0.profile={}", "tiny.yaml: callbacks.0.profile: unknown key of lightning_diff.callbacks.EMA; did you mean profiles?"),
        ("trainer.maxsteps=3", "tiny.yaml: trainer.maxsteps: unknown key of lightning.Trainer; did you mean max_steps?"),
        ("callbacks.0={_target_: lightning_diff.callbacks.EMMA}", "tiny.yaml: callbacks.0._target_: cannot import lightning_diff.callbacks.EMMA; did you mean lightning_diff.callbacks.EMA?"),
        ("callbacks.0={_target_: no.such.Thing}", "tiny.yaml: callbacks.0._target_: cannot import no.such.Thing; "),
        ("callbacks.0={_target_: lightning_diff.data.Toy, batch_size: 3}", "tiny.yaml: callbacks.0: expected Callback, got lightning_diff.data.Toy"),
        ("callbacks.5.x=1", "command line: callbacks.5.x: callbacks has 1 entries"),
        # values of the wrong type
        ("model.net.width=wide", "tiny.yaml: model.net.width: expected int, got 'wide'"),
        ("data.batch_size=1.5", "tiny.yaml: data.batch_size: expected int, got 1.5"),
        ("trainer.max_steps=many", "tiny.yaml: trainer.max_steps: expected int, got 'many'"),
        ("callbacks=3", "tiny.yaml: callbacks: expected a list of Callback, got 3"),
        ("model.label_dropout=yes", "tiny.yaml: model.label_dropout: expected float, got true"),
        ("model.net=null", "tiny.yaml: model.net: expected Module, got null"),
        (OPTIMIZER % "lr: fast", "tiny.yaml: model.optimizer.lr: expected float or Tensor, got 'fast'"),
        ("model.optimizer={_target_: torch.optim.Adam}", "tiny.yaml: model.optimizer: expected Callable, got torch.optim.Adam; add _partial_: true"),
        ("name=5", "tiny.yaml: name: expected str, got 5"),
        ("name=..", "tiny.yaml: name: '..' is not the name of a folder"),
        # values out of range
        ("trainer.max_steps=0", "tiny.yaml: trainer.max_steps: the number of optimiser steps, a positive integer, is missing"),
        ("trainer.accumulate_grad_batches=0", "tiny.yaml: trainer.accumulate_grad_batches: expected at least 1, got 0"),
        ("trainer.log_every_n_steps=0", "tiny.yaml: trainer.log_every_n_steps: expected at least 1, got 0"),
        ("trainer.gradient_clip_val=-1", "tiny.yaml: trainer.gradient_clip_val: expected at least 0, got -1"),
        ("trainer.precision=foo", "tiny.yaml: trainer.precision: 'foo' is not one of 64, 32, "),
        ("trainer.accelerator=gup", "tiny.yaml: trainer: You selected an invalid accelerator name: `accelerator='gup'`"),
        ("trainer.strategy=foo", "tiny.yaml: trainer: You selected an invalid strategy name: `strategy='foo'`"),
        ("trainer.devices=-2", "tiny.yaml: trainer: `devices` selected with `CPUAccelerator` should be an int > 0"),
        ("trainer.devices=foo", "tiny.yaml: trainer: `devices` selected with `CPUAccelerator` should be an int > 0"),
        ("data.batch_size=0", "tiny.yaml: data: Toy: batch_size must be at least 1, got 0"),
        ("model.net.width=15", "tiny.yaml: model.net: a noise embedding has as many sines as cosines"),
        ("model.sigma_data=0", "tiny.yaml: model: Denoiser: sigma_data must be positive, got 0"),
        ("model.label_dropout=0.1", "tiny.yaml: model: DiffusionModule: label_dropout needs labelled data; this data has no classes"),
        ("model.net.num_classes=3", "tiny.yaml: model: DiffusionModule: the network has 3 classes, the data have 0"),
        ("model.learning_rate={_target_: lightning_diff.learning_rate.Cosine, total: 0}", "tiny.yaml: model.learning_rate: Cosine: need 0 <= warmup < total, got warmup=0, total=0"),
        ("callbacks.0={_target_: lightning_diff.callbacks.Checkpoint, keep: 0}", "tiny.yaml: callbacks.0: Checkpoint: keep must be positive, got 0"),
        ("callbacks.0={_target_: lightning_diff.callbacks.Checkpoint, every_images: 0}", "tiny.yaml: callbacks.0: Checkpoint: every_images must be positive, got 0"),
        ("callbacks.0={_target_: lightning_diff.callbacks.Evaluate, every: 0}", "tiny.yaml: callbacks.0: Evaluate: every must be positive, got 0"),
        ("callbacks.0={_target_: lightning_diff.callbacks.SampleGrid, solver: hun}", "tiny.yaml: callbacks.0.solver: 'hun' is not one of euler, heun, "),
        ("callbacks.1={_target_: lightning_diff.callbacks.EMA}", "tiny.yaml: trainer: Found more than one stateful callback of type `EMA`"),
        # batches that do not divide
        ("trainer.accumulate_grad_batches=3", "tiny.yaml: data.batch_size 16 does not divide by 1 device(s) x 3 accumulated micro-batch(es) = 3; choose a multiple of 3"),
        ("trainer={accelerator: cpu, max_steps: 2, devices: 3}", "tiny.yaml: data.batch_size 16 does not divide by 3 device(s) x 1 accumulated"),
        # data
        (IMAGES % "nowhere", "nowhere: no such folder or zip"),
        (IMAGES % "afile", "afile: cannot be read as a folder or a zip of images"),
        (IMAGES % "no_images", "no_images: holds no images"),
        (IMAGES % "empty.zip", "empty.zip: holds no images"),
        (IMAGES % "mixed", "mixed: the images differ in size (width x height): 5 of 8x8 such as 0.png, 1 of 8x9 such as 5.png"),
        (IMAGES % "damaged", "damaged: 2 of 6 images cannot be read: 2.png (image file is truncated), 4.png (no image"),
        (IMAGES % "labels", "labels: dataset.json has labels that are no whole numbers >= 0: 2.png (-1)"),
        (IMAGES % "labels_missing", "labels_missing: dataset.json has no label for 5.png (of 6 images)"),
        (IMAGES % "constant", "Images: all training values are equal; there is nothing to learn"),
        (MAPPED % "HoldsNaN", "HoldsNaN: image 40 holds NaN or infinite values"),
        (MAPPED % "OtherSize", "OtherSize: image 40 is (1, 4, 8), image 0 is (1, 8, 8)"),
        (MAPPED % "BadLabel", "BadLabel: label -3 of item 5 is no whole number >= 0"),
        (MAPPED % "Empty", "Empty: there are no images"),
        # run folders and checkpoints
        ("seed=4", "runs/tiny: holds a run of another recipe (seed was 3, is 4)"),
        ("runs_dir=afile", "afile/tiny: the run folder cannot be written (File exists); set runs_dir"),
        ("resume=nowhere.ckpt", "resume: nowhere.ckpt is not a checkpoint file"),
        ("resume=afile", "resume: afile: is damaged, or no checkpoint of a training"),
    ],
)  # fmt: skip
def test_a_mistake_in_what_is_trained(fails, override, message):
    assert message in fails("train", "tiny.yaml", override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # a mistake that only a run finds gets a run folder of its own
        (["name=a", "resume=required"], "resume: no usable checkpoint in runs/a/checkpoints"),
        (["name=b", OPTIMIZER % "lr: -1"], "model.optimizer: Invalid learning rate: -1"),
        (["name=c", "model.net.shape=[3]"], "model.net.shape: the network is for (3,), the data are (2,)"),
        (["name=d", "callbacks.0={_target_: lightning_diff.callbacks.SampleGrid}"], "SampleGrid: draws grey or RGB images, not examples of shape (2,)"),
        (["name=e", "callbacks.0={_target_: lightning_diff.callbacks.Evaluate, n: 2}"], "Evaluate: held-out images in place of samples: "),
        (["name=f", "model.net.width=32", "trainer.max_steps=3", "resume=runs/tiny/checkpoints/step_00000002.ckpt"], "the checkpoint is of another network: it has denoiser.net.conditioning"),
        (["name=g", "data.seed=2", "trainer.max_steps=3", "resume=runs/tiny/checkpoints/step_00000002.ckpt"], "Toy: the training images are not those of the checkpoint"),
        (["name=h", "resume=runs/tiny/checkpoints/step_00000002.ckpt"], "resume: runs/tiny/checkpoints/step_00000002.ckpt is at step 2; trainer.max_steps=2 adds none"),
    ],
)  # fmt: skip
def test_a_mistake_that_shows_when_training_begins(fails, overrides, message):
    assert message in fails("train", "tiny.yaml", *overrides)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_is_not_like_the_others_is_named_when_it_is_read(fails, workers):
    """Beyond the items that were looked at, and from another process."""
    data = MAPPED.replace("batch_size: 16", f"batch_size: 16, look_at: 4, classes: 3, workers: {workers}") % "HoldsNaN"
    message = fails("train", "tiny.yaml", f"name=late{workers}", data, "trainer.max_steps=4")
    assert message == "HoldsNaN: image 40 holds NaN or infinite values"


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")
def test_a_gpu_that_is_not_there(fails):
    assert (
        fails("train", "tiny.yaml", "trainer.accelerator=gpu") == "tiny.yaml: trainer: No supported gpu backend found!"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "Missing argument 'RECIPE..."),
        (["train", "seed=1"], "train: name a recipe"),
        (["train", "nothere.yaml"], "nothere.yaml: no such recipe; packaged ones are "),
        (["train", "broken.yaml"], "broken.yaml:2: not YAML: did not find expected ',' or ']'"),
        (["train", "binary.yaml"], "binary.yaml: not YAML: "),
        (["train", "list.yaml"], "list.yaml: a recipe is a YAML mapping, this is a list"),
        (["train", "no_images"], "no_images: is a folder, not a recipe"),
        (["train", "tiny.yaml", "--foo"], "No such option: --foo"),
        (["trian", "tiny.yaml"], "No such command 'trian'"),
        (["sample", "nope"], "nope: no such run; runs holds "),
        (["sample", "tniy"], "tniy: no such run; did you mean tiny?"),
        (["sample", "unmodelled"], "runs/unmodelled: has no model.json; it is written when training ends"),
        (["sample", "tiny", "--solver", "heum"], "--solver: no 'heum'; did you mean heun?"),
        (["sample", "tiny", "--out", "x.png"], "--out: samples of shape [2] are no pictures"),
        (["sample", "tiny", "--out", "afile/x.npz"], "--out: afile/x.npz cannot be written: "),
        (["evaluate", "nope"], "nope: no such run; runs holds "),
        (["evaluate", "unmodelled"], "runs/unmodelled: has no model.json"),
        (["evaluate", "tiny", "--feature", "pixel"], "--feature: no 'pixel'; did you mean pixels?"),
        (["evaluate", "empty_recipe"], "runs/empty_recipe/recipe.yaml: data: missing; this is not the recipe that the run saved"),
        (["export", "nope"], "nope: no such run; runs holds "),
        (["export", "empty_recipe"], "runs/empty_recipe/recipe.yaml: model: missing; this is not the recipe"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line(fails, words, message):
    assert message in fails(*words)


def test_a_refused_option_leaves_no_folder_and_moves_none(fails):
    fails("train", "tiny.yaml", "name=untouched", "trainer.accumulate_grad_batches=3")
    assert not Path("runs/untouched").exists()
    fails("train", "tiny.yaml", "resume=never", "trainer.devices=foo")
    assert not Path("runs/tiny.1").exists()


def test_a_run_whose_checkpoints_are_all_damaged_is_moved_aside_not_overwritten(trained, capsys):
    shutil.copytree("runs/tiny", "runs/hurt")
    (path,) = Path("runs/hurt/checkpoints").glob(checkpoints.PATTERN)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="it has 100 bytes"):
        assert main(["train", "tiny.yaml", "name=hurt"]) == 0
    assert "the earlier run is now runs/hurt.1" in capsys.readouterr().out
    for name in ("metrics.csv", "model.safetensors"):
        assert Path("runs/hurt.1", name).read_bytes() == Path("runs/tiny", name).read_bytes()


def test_a_table_of_metrics_that_is_none_is_named(trained, capsys):
    shutil.copytree("runs/tiny", "runs/garbled")
    for content, message in ((b"\xff\x00", "is no table of metrics"), (b"a,b\n1,2\n", "its columns are not those")):
        Path("runs/garbled/metrics.csv").write_bytes(content)
        assert main(["train", "tiny.yaml", "name=garbled", "trainer.max_steps=3"]) == 2
        assert f"error: runs/garbled/metrics.csv: {message}" in capsys.readouterr().err


def test_running_out_of_memory_is_one_line_that_says_what_to_do(fails, monkeypatch):
    import torch

    def forward(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nSee documentation")

    monkeypatch.setattr("lightning_diff.nets.MLP.forward", forward)
    assert fails("train", "tiny.yaml", "name=oom", "trainer.accumulate_grad_batches=2") == (
        "tiny.yaml: out of memory with 8 images at a time; trainer.accumulate_grad_batches takes fewer, and trains the same"
    )
