"""The commands of the README and the how-to pages do what is said: each is run, in one folder, page by page, on runs of two steps.

docs/first_hour.md and docs/extending.md, whose commands are run as they stand, have tests of their own.
"""

import glob
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pipeline_folders
import pytest
from edm_snapshots import edm_modules, snapshot, write
from PIL import Image
from test_every_recipe import FEW, ON_CPU, SMALL, trained
from test_site_pages import lines_of

from lightning_diff.cli import main
from lightning_diff.nets import UNet
from lightning_diff.runs import recipe

DOCS = Path(__file__).parents[1] / "docs"
FOLLOWED = (
    "index",
    "howto/noise_levels",
    "howto/few_steps",
    "howto/resume",
    "howto/compare",
    "howto/reward",
    "howto/trouble",
)
REFERRED = ("consistency", "schedules", "json", "weighting", "rewards")  # whose commands stand among the text
FILE = re.compile(r"^\*\*([\w.]+)\*\*\n\n```\w+\n(.*?)^```", re.M | re.S)
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
ELSEWHERE = (  # two processes: tests/test_every_recipe.py; minutes of learning: tests/cli/test_cli_schedule.py
    "trainer.devices=2",
    "--method end_point",
)
LATENTS = """
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: lightning_diff.nets.UNet, channels: 8, channel_mult: [1], attention: []}
data:
  _target_: lightning_diff.data.Latents
  batch_size: 8
  source: {_target_: lightning_diff.data.Digits, batch_size: 8}
  autoencoder: {_target_: lightning_diff.autoencoders.Pair, module: {_target_: tiny_autoencoder.Halves}}
trainer: {max_steps: 2}
"""
FEWER = {  # what makes a command short, where the page does not say it
    "sample": ["--n", "4"],
    "evaluate": ["--feature", "pixels", "--n", "80"],
    "schedule": ["--trajectories", "4"],
    "resume": ["trainer.max_steps=3"],
}


def lines(page: str) -> list[str]:
    found = [
        line for block in BLOCK.findall((DOCS / f"{page}.md").resolve().read_text()) for line in block.splitlines()
    ]
    return [
        line for line in found if line.startswith("lightning-diff ") and not any(word in line for word in ELSEWHERE)
    ]


def quick(name: str) -> list[str]:
    """The small form of a packaged recipe, without what measures."""
    listed = {node["_target_"].rpartition(".")[2]: node for node in recipe.compose(name)["callbacks"]}
    kept = [node | FEW.get(kind, {}) for kind, node in listed.items() if kind != "Evaluate"]
    return [*SMALL[name][1], *ON_CPU, f"callbacks={json.dumps(kept)}"]


def shortened(line: str) -> list[str]:
    command, *words = shlex.split(line, comments=True)[1:]
    words = [found for word in words for found in (sorted(glob.glob(word)) if "*" in word else [word])]
    more = quick(words[0]) if command == "train" and "--dry-run" not in words else list(FEWER.get(command, []))
    if "--n" in words and command == "sample":
        more = []
    return [command, *words, *more]


@pytest.mark.whole
@pytest.mark.parametrize("page", FOLLOWED)
def test_the_commands_of_the_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    trained("digits_edm")
    for name, content in FILE.findall((DOCS / f"{page}.md").read_text()):
        Path(name).write_text(content)
    for line in lines(page):
        assert main(shortened(line)) == 0, line


def last_alone(line: str) -> str:
    """Of a training of several recipes the last one; what it starts from is there."""
    words = shlex.split(line, comments=True)
    recipes = [word for word in words if word in SMALL] if words[1] == "train" else []
    return shlex.join([word for word in words if word not in recipes[:-1]])


@pytest.mark.whole
@pytest.mark.parametrize("page", REFERRED)
def test_the_commands_among_the_text_of_the_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained("digits_edm"), "runs/other")
    shutil.copytree("runs/digits_edm", "runs/plain")
    for line in lines_of(DOCS / f"{page}.md"):
        if any(word in line for word in ELSEWHERE):
            continue
        words = shortened(last_alone(f"lightning-diff {line}"))
        assert main(words) == 0, line


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore")  # diffusers' and transformers' own
def test_the_commands_of_the_readme_run(tmp_path, monkeypatch):
    """On pictures, a pickle, a pipeline's folder and latents that a reader is to have."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for i in range(100):
        path = Path("pictures", str(i % 10), f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    edm_modules(monkeypatch)
    net = UNet((3, 16, 16), 3, 5, channels=8, channel_mult=(1, 2), num_blocks=1, attention=(16,), dropout=0.1)
    write(Path("edm.pkl"), snapshot(net, img_resolution=16, label_dim=3, attn_resolutions=[16]))
    pipeline_folders.write_with_text(Path("stable-diffusion-3-medium"), ["a"])
    Path("latents.yaml").write_text(LATENTS)
    trained("digits_edm")
    for line in lines("../README"):
        assert main(shortened(line)) == 0, line


def test_the_pages_have_commands_to_run():
    assert len([line for page in ("../README", *FOLLOWED) for line in lines(page)]) >= 55
