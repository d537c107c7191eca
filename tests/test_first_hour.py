"""docs/first_hour.md, followed from its first line to its last."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from edm_snapshots import edm_modules, snapshot, write

from lightning_diff.artifacts import read_record
from lightning_diff.cli import main
from lightning_diff.nets import UNet

pytestmark = pytest.mark.whole

PAGE = (Path(__file__).parents[1] / "docs" / "first_hour.md").read_text()
FILE = re.compile(r"^\*\*([\w.]+)\*\*\n\n```\w+\n(.*?)^```", re.M | re.S)  # **name**, then its content
STEP = re.compile(r"^```(sh|python)\n(.*?)\n```", re.M | re.S)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder in which everything was done."""
    folder = tmp_path_factory.mktemp("hour")
    files = dict(FILE.findall(PAGE))
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        edm_modules(patch)
        size = {"img_resolution": 16, "label_dim": 3, "attn_resolutions": [16]}
        net = UNet((3, 16, 16), 3, 5, channels=8, channel_mult=(1, 2), num_blocks=1, attention=(16,), dropout=0.1)
        write(folder / "edm.pkl", snapshot(net, **size))
        patch.chdir(folder)
        for language, text in STEP.findall(PAGE):
            if language == "python":
                if f"{text}\n" not in files.values():
                    exec(compile(text, "docs/first_hour.md", "exec"), {})
                continue
            program, *words = shlex.split(text)
            if program == "python":
                runpy.run_path(words[0], run_name="__main__")
            else:
                assert main(words) == 0, text
    return folder


def test_the_hour_leaves_what_the_page_speaks_of(followed):
    for path in (
        "stars.png",
        "from_edm.png",
        "notebook.png",
        "compare.png",
        "compare.csv",
        "runs/mine/noise_levels.png",
    ):
        assert (followed / path).stat().st_size > 0, path
    assert read_record(followed / "runs" / "mine").class_names == ("circle", "red square", "star")
    names = {"mine", "tuned", "mine,seed=1", "mine,seed=2", "watched", "from_edm"}
    assert {path.parent.name for path in (followed / "runs").glob("*/finished.json")} == names


def test_the_tracker_has_the_curves_the_pictures_and_the_recipe(followed):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(followed / "runs" / "watched" / "tensorboard"))
    events.Reload()
    assert {"samples", "noise_levels"} <= set(events.Tags()["images"])
    assert "train/loss" in events.Tags()["scalars"]
    assert "lightning_diff.DiffusionModule" in (followed / "runs/watched/tensorboard/hparams.yaml").read_text()
