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
from messages import tells
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
        (message,) = (line for line in lines if line and " image/s" not in line)  # the progress bar's
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
        ("modle.x=1", "tiny.yaml: modle: ... recipe ... model"),
        ("model.nett=1", "tiny.yaml: model.nett: ... lightning_diff.DiffusionModule ... net"),
        ("model.net.widht=3", "tiny.yaml: model.net.widht: ... lightning_diff.nets.MLP ... width"),
        (OPTIMIZER % "lrr: 1", "tiny.yaml: model.optimizer.lrr: ... torch.optim.Adam ... lr"),
        ("data.densty=ring", "tiny.yaml: data.densty: ... lightning_diff.data.Toy ... density"),
        ("callbacks.0.profile={}", "tiny.yaml: callbacks.0.profile: ... lightning_diff.callbacks.EMA ... profiles"),
        ("trainer.maxsteps=3", "tiny.yaml: trainer.maxsteps: ... lightning.Trainer ... max_steps"),
        ("callbacks.0={_target_: lightning_diff.callbacks.EMMA}", "tiny.yaml: callbacks.0._target_: ... lightning_diff.callbacks.EMMA ... lightning_diff.callbacks.EMA"),
        ("callbacks.0={_target_: no.such.Thing}", "tiny.yaml: callbacks.0._target_: ... no.such.Thing"),
        ("callbacks.0={_target_: lightning_diff.data.Toy, batch_size: 3}", "tiny.yaml: callbacks.0: ... Callback ... lightning_diff.data.Toy"),
        ("callbacks.5.x=1", "command line: callbacks.5.x: ... 1"),
        # values of the wrong type
        ("model.net.width=wide", "tiny.yaml: model.net.width: ... int ... 'wide'"),
        ("data.batch_size=1.5", "tiny.yaml: data.batch_size: ... int ... 1.5"),
        ("trainer.max_steps=many", "tiny.yaml: trainer.max_steps: ... int ... 'many'"),
        ("callbacks=3", "tiny.yaml: callbacks: ... a list of Callback ... 3"),
        ("model.condition_dropout=yes", "tiny.yaml: model.condition_dropout: ... float ... true"),
        ("model.net=null", "tiny.yaml: model.net: ... Module ... null"),
        (OPTIMIZER % "lr: fast", "tiny.yaml: model.optimizer.lr: ... float or Tensor ... 'fast'"),
        ("model.optimizer={_target_: torch.optim.Adam}", "tiny.yaml: model.optimizer: ... Callable ... torch.optim.Adam ... _partial_: true"),
        ("name=a\nb", "tiny.yaml: name: ... holds"),
        ("name=..", "tiny.yaml: name: ... '..' ... folder"),
        # values out of range
        ("trainer.max_steps=0", "tiny.yaml: trainer.max_steps: ... missing"),
        ("trainer.accumulate_grad_batches=0", "tiny.yaml: trainer.accumulate_grad_batches: ... 1 ... 0"),
        ("trainer.log_every_n_steps=0", "tiny.yaml: trainer.log_every_n_steps: ... 1 ... 0"),
        ("trainer.gradient_clip_val=-1", "tiny.yaml: trainer.gradient_clip_val: ... 0 ... -1"),
        ("trainer.precision=foo", "tiny.yaml: trainer.precision: ... 'foo' ... 64, 32"),
        ("trainer.accelerator=gup", "tiny.yaml: trainer: ... accelerator='gup'"),
        ("trainer.strategy=foo", "tiny.yaml: trainer: ... strategy='foo'"),
        ("trainer.devices=-2", "tiny.yaml: trainer: ... devices ... CPUAccelerator"),
        ("trainer.devices=foo", "tiny.yaml: trainer: ... devices ... CPUAccelerator"),
        ("data.batch_size=0", "tiny.yaml: data: Toy: ... batch_size ... 0"),
        ("model.net.width=15", "tiny.yaml: model.net: ... noise embedding"),
        ("model.sigma_data=0", "tiny.yaml: model: Denoiser: ... sigma_data ... 0"),
        ("model.condition_dropout=0.1", "tiny.yaml: model: DiffusionModule: condition_dropout ... classes"),
        ("model.net.num_classes=3", "tiny.yaml: model: DiffusionModule: ... 3 classes ... 0"),
        ("model.learning_rate={_target_: lightning_diff.learning_rate.Cosine, total: 0}", "tiny.yaml: model.learning_rate: Cosine: ... warmup=0, total=0"),
        ("callbacks.0={_target_: lightning_diff.callbacks.Checkpoint, keep: 0}", "tiny.yaml: callbacks.0: Checkpoint: ... keep ... 0"),
        ("callbacks.0={_target_: lightning_diff.callbacks.Checkpoint, every_images: 0}", "tiny.yaml: callbacks.0: Checkpoint: ... every_images ... 0"),
        ("callbacks.0={_target_: lightning_diff.callbacks.Evaluate, every: 0}", "tiny.yaml: callbacks.0: Evaluate: ... every ... 0"),
        ("callbacks.0={_target_: lightning_diff.callbacks.SampleGrid, solver: hun}", "tiny.yaml: callbacks.0.solver: ... 'hun' ... euler, heun"),
        ("callbacks.1={_target_: lightning_diff.callbacks.EMA}", "tiny.yaml: callbacks: ... EMA"),
        # batches that do not divide
        ("trainer.accumulate_grad_batches=3", "tiny.yaml: data.batch_size ... 16 ... 1 device(s) x 3 ... 3"),
        ("trainer={accelerator: cpu, max_steps: 2, devices: 3}", "tiny.yaml: data.batch_size ... 16 ... 3 device(s) x 1"),
        # data
        (IMAGES % "nowhere", "... nowhere: ... folder or zip"),
        (IMAGES % "afile", "... afile: ... folder or a zip"),
        (IMAGES % "no_images", "... no_images: ... no images"),
        (IMAGES % "empty.zip", "... empty.zip: ... no images"),
        (IMAGES % "mixed", "... mixed: ... 5 of 8x8 ... 0.png ... 1 of 8x9 ... 5.png"),
        (IMAGES % "damaged", "... damaged: ... 2 of 6 ... 2.png ... truncated ... 4.png ... no image"),
        (IMAGES % "labels", "... labels: dataset.json ... 2.png (-1)"),
        (IMAGES % "labels_missing", "... labels_missing: dataset.json ... 5.png ... 6 images"),
        (IMAGES % "constant", "... Images: ... values are equal"),
        (MAPPED % "HoldsNaN", "... HoldsNaN: image 40 ... NaN"),
        (MAPPED % "OtherSize", "... OtherSize: image 40 ... (1, 4, 8) ... image 0 ... (1, 8, 8)"),
        (MAPPED % "BadLabel", "... BadLabel: label -3 of item 5"),
        (MAPPED % "Empty", "... Empty: ... no images"),
        # run folders and checkpoints
        ("seed=4", "... runs/tiny: ... another recipe ... seed was 3, is 4"),
        ("runs_dir=afile", "... afile/tiny: ... File exists ... runs_dir"),
        ("resume=nowhere.ckpt", "... resume: nowhere.ckpt ... checkpoint"),
        ("resume=afile", "... resume: afile: ... damaged"),
    ],
)  # fmt: skip
def test_a_mistake_in_what_is_trained(fails, override, message):
    assert tells(fails("train", "tiny.yaml", override), message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # a mistake that only a run finds gets a run folder of its own
        (["name=a", "resume=required"], "... resume: ... runs/a/checkpoints"),
        (["name=b", OPTIMIZER % "lr: -1"], "... model.optimizer: ... learning rate: -1"),
        (["name=c", "model.net.shape=[3]"], "... model.net.shape: ... (3,) ... (2,)"),
        (["name=d", "callbacks.0={_target_: lightning_diff.callbacks.SampleGrid}"], "... SampleGrid: ... (2,)"),
        (["name=e", "callbacks.0={_target_: lightning_diff.callbacks.Evaluate, n: 2}"], "... Evaluate: 2 samples"),
        (["name=f", "model.net.width=32", "trainer.max_steps=3", "resume=runs/tiny/checkpoints/step_00000002.ckpt"], "... another network ... denoiser.net.conditioning"),
        (["name=g", "data.seed=2", "trainer.max_steps=3", "resume=runs/tiny/checkpoints/step_00000002.ckpt"], "... Toy: ... training images ... checkpoint"),
        (["name=h", "resume=runs/tiny/checkpoints/step_00000002.ckpt"], "... resume: runs/tiny/checkpoints/step_00000002.ckpt ... step 2 ... trainer.max_steps=2"),
    ],
)  # fmt: skip
def test_a_mistake_that_shows_when_training_begins(fails, overrides, message):
    assert tells(fails("train", "tiny.yaml", *overrides), message)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_is_not_like_the_others_is_named_when_it_is_read(fails, workers):
    """Beyond the items that were looked at, and from another process."""
    data = MAPPED.replace("batch_size: 16", f"batch_size: 16, look_at: 4, classes: 3, workers: {workers}") % "HoldsNaN"
    message = fails("train", "tiny.yaml", f"name=late{workers}", data, "trainer.max_steps=4")
    assert tells(message, "HoldsNaN: image 40 ... NaN")


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")
def test_a_gpu_that_is_not_there(fails):
    assert tells(fails("train", "tiny.yaml", "trainer.accelerator=gpu"), "tiny.yaml: trainer: ... gpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "Missing argument 'RECIPE"),
        (["train", "seed=1"], "train: ... recipe"),
        (["train", "nothere.yaml"], "nothere.yaml: ... recipe"),
        (["train", "broken.yaml"], "broken.yaml:2: not YAML"),
        (["train", "binary.yaml"], "binary.yaml: not YAML"),
        (["train", "list.yaml"], "list.yaml: ... mapping ... list"),
        (["train", "no_images"], "no_images: ... folder"),
        (["train", "tiny.yaml", "--foo"], "No such option: --foo"),
        (["trian", "tiny.yaml"], "No such command 'trian'"),
        (["sample", "nope"], "nope: ... run ... tiny"),
        (["sample", "tniy"], "tniy: ... tiny"),
        (["sample", "unmodelled"], "runs/unmodelled: ... model.json"),
        (["sample", "tiny", "--solver", "heum"], "--solver: ... 'heum' ... heun"),
        (["sample", "tiny", "--out", "x.png"], "--out: ... [2]"),
        (["sample", "tiny", "--out", "afile/x.npz"], "--out: afile/x.npz cannot be written"),
        (["evaluate", "nope"], "nope: ... run ... tiny"),
        (["evaluate", "unmodelled"], "runs/unmodelled: ... model.json"),
        (["evaluate", "tiny", "--feature", "pixel"], "--feature: ... 'pixel' ... pixels"),
        (["evaluate", "empty_recipe"], "runs/empty_recipe/recipe.yaml: data: missing"),
        (["export", "nope"], "nope: ... run ... tiny"),
        (["export", "empty_recipe"], "runs/empty_recipe/recipe.yaml: model: missing"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line(fails, words, message):
    assert tells(fails(*words), message)


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
    assert "runs/hurt.1" in capsys.readouterr().out
    for name in ("metrics.csv", "model.safetensors"):
        assert Path("runs/hurt.1", name).read_bytes() == Path("runs/tiny", name).read_bytes()


def test_a_table_of_metrics_that_is_none_is_named(trained, capsys):
    shutil.copytree("runs/tiny", "runs/garbled")
    for content, message in ((b"\xff\x00", "table"), (b"a,b\n1,2\n", "columns")):
        Path("runs/garbled/metrics.csv").write_bytes(content)
        assert main(["train", "tiny.yaml", "name=garbled", "trainer.max_steps=3"]) == 2
        assert tells(capsys.readouterr().err, f"... error: runs/garbled/metrics.csv: ... {message}")


def test_running_out_of_memory_is_one_line_that_says_what_to_do(fails, monkeypatch):
    import torch

    def forward(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nSee documentation")

    monkeypatch.setattr("lightning_diff.nets.MLP.forward", forward)
    message = fails("train", "tiny.yaml", "name=oom", "trainer.accumulate_grad_batches=2")
    assert tells(message, "tiny.yaml: out of memory ... 8 images ... trainer.accumulate_grad_batches")
