"""The site's pages are complete: every public name, command, recipe and picture is on them, and their commands are understood.

`python tests/test_site_pages.py` writes docs/reference/commands.md anew.
"""

import re
import shlex
from pathlib import Path

import click
import pytest
import torch
import typer
from omegaconf import OmegaConf
from torch import nn

from lightning_diff import noise
from lightning_diff.cli import app as cli
from lightning_diff.denoiser import PREDICTIONS, Denoiser
from lightning_diff.foundation.sources import source
from lightning_diff.runs import catalogue, grid, recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
REFERENCE = "\n".join(path.read_text() for path in sorted((DOCS / "reference").glob("*.md")))
COMMANDS = DOCS / "reference" / "commands.md"
INSIDE = {"cli", "artifacts.checkpoints"}  # rooms that nobody names in a recipe
COMMAND = re.compile(r"^(?:    )?lightning-diff (.*?)(?:  +#.*)?$", re.M)
BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```|((?:^    .*\n)+)", re.M | re.S)


def where(path: str) -> str:
    """Where a name is defined, whatever room hands it on."""
    room, _, name = path.rpartition(".")
    for _ in range(9):
        here = source(room)
        (bound,) = (here.bindings.get(name) or [None])[-1:] if here else (None,)
        if not isinstance(bound, str):
            break
        room, _, name = bound.rpartition(".")
    return f"{room}.{name}"


def exported() -> list[str]:
    """The names of every `__all__` in the package's rooms."""
    rooms = [path.relative_to(ROOT).parent for path in (ROOT / "lightning_diff").rglob("__init__.py")]
    rooms += [Path("lightning_diff", "callbacks")]
    paths = sorted({".".join(room.parts) for room in rooms} | {"lightning_diff.statistics"})
    kept = [path for path in paths if path.removeprefix("lightning_diff.") not in INSIDE and ".runs" not in path]
    return [f"{path}.{name}" for path in kept if (here := source(path)) for name in here.exported]


def named_in_recipes() -> list[str]:
    texts = [path.read_text() for path in [*PAGES, *(ROOT / "recipes").glob("*.yaml")]]
    return sorted({name for text in texts for name in re.findall(r"_target_: (lightning_diff\.[\w.]+)", text)})


def shown() -> set[str]:
    return {where(path) for path in re.findall(r"^::: (\S+)", REFERENCE, re.M)}


def test_every_public_name_is_in_the_reference():
    described = [entry.path for entry in catalogue.entries() if entry.defined]
    wanted = [*exported(), *described, *named_in_recipes()]
    assert len(set(wanted)) > 250
    there = shown()
    assert sorted({path for path in wanted if where(path) not in there}) == []


def test_every_name_in_the_reference_is_there_once():
    paths = re.findall(r"^::: (\S+)", REFERENCE, re.M)
    assert len(paths) == len(set(paths))
    for path in paths:
        room, _, name = where(path).rpartition(".")
        here = source(room)
        assert source(path) is not None or (here is not None and name in here.bindings), path


def test_every_page_is_in_the_navigation_once():
    nav = OmegaConf.to_container(OmegaConf.load(ROOT / "mkdocs.yml"))["nav"]
    listed = re.findall(r"[\w/]+\.md", str(nav))
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in PAGES)


def test_every_packaged_recipe_is_shown_whole():
    shown = re.findall(r'^## (\w+)\n\n```yaml\n--8<-- "recipes/(\w+)\.yaml"\n```$', REFERENCE, re.M)
    packaged = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    assert shown == [(name, name) for name in packaged]


def test_every_picture_is_in_the_gallery_with_its_command_and_has_words():
    gallery = (DOCS / "reference" / "gallery.md").read_text()
    shown = re.findall(r"!\[[^\]]+\]\(\.\./pictures/([\w.]+)\)(?:\{[^}]*\})?\n\n    \S+ ", gallery)
    assert sorted(shown) == sorted(path.name for path in (DOCS / "pictures").glob("*.png"))
    for page in PAGES:
        for words in re.findall(r"!\[([^\]]*)\]\(", page.read_text()):
            assert len(words) > 15, page


def commands() -> dict[str, click.Command]:
    """Of the whole command line, a subcommand as `data inspect`."""
    found: dict[str, click.Command] = {}
    for name, command in typer.main.get_command(cli.app).commands.items():
        inner = getattr(command, "commands", {})
        found |= {f"{name} {each}": sub for each, sub in inner.items()} or {name: command}
    return found


def help_page() -> str:
    parts = ["# Commands\n\n`lightning-diff COMMAND --help`, for every command.\n"]
    for name, command in commands().items():
        context = click.Context(command, info_name=f"lightning-diff {name}", terminal_width=100, max_content_width=100)
        text = re.sub(r"\n  Packaged recipes: .*?\n\n", "\n", command.get_help(context), flags=re.S)
        parts.append(f"## {name}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)


def test_the_page_of_commands_is_what_help_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    written, wanted = COMMANDS.read_text(), help_page()
    assert written == wanted, "python tests/test_site_pages.py writes the page anew"


def lines_of(page: Path) -> list[str]:
    """The commands of a page's blocks, a continued line as one."""
    blocks = [fenced or indented for fenced, indented in BLOCK.findall(page.read_text())]
    text = "\n".join(re.sub(r"^    ", "", block, flags=re.M) for block in blocks).replace("\\\n", " ")
    return [line.partition(" | ")[0] for line in COMMAND.findall(text) if "[--" not in line and "[key" not in line]


LINES = [(page, line) for page in PAGES for line in lines_of(page)]


def test_the_pages_show_commands():
    assert len(LINES) >= 90


@pytest.mark.parametrize("page", sorted({page for page, _ in LINES}), ids=lambda page: str(page.relative_to(DOCS)))
def test_the_commands_of_the_pages_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    known = commands()
    for line in lines_of(page):
        words = shlex.split(line, comments=True)
        size = next(n for n in (2, 1) if len(words) >= n and " ".join(words[:n]) in known)
        command = known[" ".join(words[:size])]
        given = command.make_context(words[size - 1], words[size:]).params
        if words[0] == "train":
            overrides = [word for word in given["words"] if recipe.is_override(word)]
            paths = [word for word in given["words"] if not recipe.is_override(word)]
            if all(path in recipe.packaged() for path in paths) and "corners" not in line:  # a file of that page
                assert grid.points(paths, overrides) if given["many"] else recipe.load(*paths[-1:], overrides)


def test_the_first_page_starts_as_the_readme_does():
    (start,) = re.findall(r"<!-- train -->\n```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.S)
    (block, *_) = re.findall(r"```sh\n(.*?)\n```", (DOCS / "index.md").read_text(), re.S)
    assert " && ".join(block.splitlines()) == start


@pytest.fixture(scope="module")
def glossary():
    (code,) = re.findall(r"```python\n(.*?)^```", (DOCS / "reference" / "glossary.md").read_text(), re.M | re.S)
    there: dict = {}
    exec(compile(code, "docs/reference/glossary.md", "exec"), there)
    return there


@pytest.mark.parametrize("sigma", [0.002, 0.3, 0.5, 7.0, 80.0])
def test_the_glossary_converts_noise_levels_as_the_package_does(glossary, sigma):
    level, names = torch.tensor(sigma, dtype=torch.float64), glossary["conversions"](sigma)
    same = {
        "log_snr": noise.sigma_to_log_snr(level),
        "t of TrigFlow": noise.sigma_to_t(level),
        "flow time": noise.sigma_to_flow_time(level),
        "log_snr of VDM": -2 * level.log(),
        "lambda of DPM-Solver": -level.log(),
        "time of flow_matching": 1 - noise.sigma_to_flow_time(level),
        "c_noise of EDM": level.log() / 4,
    }
    assert {name: names[name] for name in same} == pytest.approx({name: float(value) for name, value in same.items()})
    back = [glossary["sigma_from"](log_snr=names["log_snr"]), glossary["sigma_from"](t=names["t of TrigFlow"])]
    back += [glossary["sigma_from"](flow=names["flow time"]), glossary["sigma_from"](abar=names["abar"])]
    assert back == pytest.approx([sigma] * 4)


class Gives(nn.Module):
    """A network whose output is known."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, c_noise, label=None):
        return self.output.expand_as(x)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
def test_the_glossary_names_what_a_network_predicts_as_the_package_does(glossary, prediction, sigma):
    x0, eps = (
        torch.tensor([0.3, -0.8]).double().reshape(2, 1, 1, 1),
        torch.tensor([1.1, 0.4]).double().reshape(2, 1, 1, 1),
    )
    output = glossary["targets"](x0, eps, sigma)[prediction]
    denoiser = Denoiser(Gives(output), sigma_data=0.5, prediction=prediction)
    levels = torch.full((2,), sigma, dtype=torch.float64)
    torch.testing.assert_close(denoiser(x0 + sigma * eps, levels), x0, rtol=1e-9, atol=1e-9)


if __name__ == "__main__":
    COMMANDS.write_text(help_page())
