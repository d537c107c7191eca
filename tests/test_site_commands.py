"""The commands of the how-to pages do what the pages say: each is run, in one folder, page by page, on runs of two steps.

docs/first_hour.md and docs/extending.md, whose commands are run as they stand, have tests of their own.
"""

import glob
import json
import re
import shlex
from pathlib import Path

import pytest
from test_every_recipe import FEW, ON_CPU, SMALL, trained

from lightning_diff.cli import main
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
FILE = re.compile(r"^\*\*([\w.]+)\*\*\n\n```\w+\n(.*?)^```", re.M | re.S)
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
ELSEWHERE = ("trainer.devices=2",)  # two processes: tests/test_every_recipe.py
FEWER = {  # what makes a command short, where the page does not say it
    "sample": ["--n", "4"],
    "evaluate": ["--feature", "pixels", "--n", "80"],
    "schedule": ["--trajectories", "4"],
    "resume": ["trainer.max_steps=3"],
}


def lines(page: str) -> list[str]:
    found = [line for block in BLOCK.findall((DOCS / f"{page}.md").read_text()) for line in block.splitlines()]
    return [
        line for line in found if line.startswith("lightning-diff ") and not any(word in line for word in ELSEWHERE)
    ]


def quick(name: str) -> list[str]:
    """The small form of a packaged recipe, without what measures."""
    listed = {node["_target_"].rpartition(".")[2]: node for node in recipe.compose(name)["callbacks"]}
    kept = [node | FEW.get(kind, {}) for kind, node in listed.items() if kind != "Evaluate"]
    return [*SMALL[name][1], *ON_CPU, f"callbacks={json.dumps(kept)}"]


def shortened(line: str) -> list[str]:
    command, *words = shlex.split(line)[1:]
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


def test_the_pages_have_commands_to_run():
    assert len([line for page in FOLLOWED for line in lines(page)]) >= 25
