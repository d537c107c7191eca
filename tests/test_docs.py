"""The pages tell the truth: what they show is run, and what they list is what there is."""

import ast
import io
import re
import runpy
import shlex
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import get_args

import forked
import pytest
import torch
import typer

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.cli import app as cli
from lightning_diff.data import Toy
from lightning_diff.metrics import Reference, evaluate
from lightning_diff.metrics.features import FeatureName
from lightning_diff.runs import grid, recipe
from lightning_diff.runs.build import DEFAULT_CALLBACKS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README, EXTENDING, RECIPES, METRICS, ARCHITECTURE = (
    (ROOT / page).read_text()
    for page in ("README.md", "docs/extending.md", "docs/recipes.md", "docs/metrics.md", "docs/architecture.md")
)
PACKAGED = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))

FILE = re.compile(r"^\*\*([\w.]+)\*\*\n\n```\w+\n(.*?)^```", re.M | re.S)  # **name**, then its content
STEP = re.compile(r"^```sh\n(.*?)\n```\n(.*?)(?=^```sh|\Z)", re.M | re.S)  # a command, and the page up to the next
SHOWN = re.compile(r"^```text\n(.*?)\n```", re.M | re.S)  # what it prints
QUOTED = re.compile(
    r"`([\w/]+\.py)`,\s`([\w.]+)`:\n\n```python\n(.*?)^```", re.M | re.S
)  # `file`, `function`:, then its code
NUMBER = re.compile(r"\d+\.\d+")  # whole numbers have to agree to the digit, measured ones nearly


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """docs/extending.md, done as it says: the folder, and for each command (what the page shows, what was printed)."""
    folder = tmp_path_factory.mktemp("shapes")
    for name, content in FILE.findall(EXTENDING):
        (folder / name).write_text(content)
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        printed = {}
        for number, (command, rest) in enumerate(STEP.findall(EXTENDING)):
            shown = SHOWN.search(rest)
            printed[command] = (shown[1] if shown else "", follow(shlex.split(command), apart=number == 0))
        yield folder, printed
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def follow(words: list[str], apart: bool) -> str:
    """What a command prints: in a process of its own, or, to save that one's start, in this."""
    program, *arguments = words
    if apart:
        assert program == "lightning-diff"
        done = forked.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a plain Trainer has its own opinions on loaders
        failed = bool(cli.main(arguments)) if program == "lightning-diff" else not runpy.run_path(arguments[0])
    return err.getvalue() if failed else out.getvalue()


def agree(shown: str, printed: str) -> bool:
    """Whether the lines that a page shows stand in the output, one after the other."""
    wanted, lines = shown.splitlines(), printed.splitlines()
    return any(all(map(like, wanted, lines[i:])) for i in range(len(lines) - len(wanted) + 1))


def like(shown: str, printed: str) -> bool:
    same = NUMBER.sub("#", shown) == NUMBER.sub("#", printed)
    measured = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return same and all(float(a) == pytest.approx(float(b), rel=0.1) for a, b in measured)


def rows(folder: Path, name: str) -> dict[tuple[str, int], float]:
    table = read(folder / "runs" / name / "metrics.csv")
    return {(row["metric"], int(row["images"])): float(row["value"]) for row in table}


@pytest.mark.whole
def test_every_command_of_the_page_prints_what_the_page_shows(followed):
    _, printed = followed
    assert len(printed) == 8
    for command, (shown, output) in printed.items():
        assert shown, command
        assert agree(shown, output), (command, shown, output)


@pytest.mark.whole
def test_the_command_line_of_lightning_takes_modules_and_data(followed, monkeypatch, recwarn):
    pytest.importorskip("jsonargparse")
    folder, _ = followed
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    (command,) = re.findall(r"^```bash\npython cli.py (.*?)\n```", EXTENDING, re.M | re.S)
    module = runpy.run_path("cli.py")["main"](shlex.split(command.replace("\\\n", " "))).model
    assert (module.images_seen, module.num_classes) == (96, 2)
    assert module.denoiser.sigma_data != 0.5  # the data's


@pytest.mark.whole
def test_the_page_shows_all_of_what_training_prints(followed):
    shown, output = followed[1]["lightning-diff train shapes.yaml"]
    assert len(shown.splitlines()) == len(output.splitlines())


@pytest.mark.whole
def test_the_files_and_figures_that_the_page_speaks_of_are_there(followed):
    folder, _ = followed
    for path in (
        "runs/shapes/samples/000000009600.png",
        "runs/shapes/model.safetensors",
        "samples.png",
        "model/model.json",
    ):
        assert (folder / path).stat().st_size > 0, path
        assert Path(path).name in EXTENDING
    figures = rows(folder, "shapes")
    for name in ("loss/noisy", "loss/clean", "train/unweighted_loss"):
        first, *_, last = [value for (metric, _), value in figures.items() if metric == name]
        assert last < 0.6 * first, name
    net = recipe.read_yaml(folder / "runs/shapes/recipe.yaml")["model"]["net"]
    assert (net["shape"], net["num_classes"]) == ([1, 16, 16], 2)


@pytest.mark.whole
def test_read_when_needed_or_kept_in_memory_the_run_is_the_same(followed):
    folder, _ = followed
    read_when_needed, in_memory = rows(folder, "shapes"), rows(folder, "shapes_in_memory")
    for key in ("loss/noisy", 3200), ("loss/clean", 3200), ("train/loss", 1600):
        assert in_memory[key] == pytest.approx(read_when_needed[key], rel=1e-3)


def test_the_page_names_its_files_in_the_list_at_the_top():
    listed = re.findall(r"^ {6}(\S+)", EXTENDING.partition("\n## ")[0], re.M)
    assert [name for name, _ in FILE.findall(EXTENDING)][: len(listed)] == listed


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_are_right_and_listed_in_the_readme(name):
    assert recipe.load(name)["name"] == name
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("line", re.findall(r"^lightning-diff .*?(?=  +#|$)", README, re.M))
def test_the_readmes_commands_are_understood(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, *arguments = shlex.split(line)[1:]
    parser = typer.main.get_command(cli.app).commands[command]
    given = parser.make_context(command, arguments).params
    if command == "train":
        paths = [word for word in given["words"] if not recipe.is_override(word)]
        overrides = [word for word in given["words"] if recipe.is_override(word)]
        assert grid.points(paths, overrides) if given["many"] else recipe.load(*paths, overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_example_of_a_recipe_is_one(tmp_path):
    (tmp_path / "example.yaml").write_text(re.search(r"^```yaml\n(.*?)^```", RECIPES, re.M | re.S)[1])
    assert recipe.load(tmp_path / "example.yaml")["name"] == "digits_edm"


def test_the_example_of_an_error_is_the_message(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(["train", "recipes/digits_edm.yaml", "model.net.chanels=3"]) == 2
    assert f"\n    {capsys.readouterr().err}" in RECIPES


def test_the_lists_of_keys_and_callbacks_are_complete():
    assert f"Top-level keys: `{', '.join(recipe.KEYS)}`." in RECIPES
    callbacks = re.search(r"^## Callbacks that are always there\n\n(.*?) watch every run", RECIPES, re.M)[1]
    assert set(re.findall(r"`(\w+)`", callbacks)) == {kind.__name__ for kind in DEFAULT_CALLBACKS}


def test_every_metric_and_feature_space_has_its_words():
    data = Toy(batch_size=1, n=64)
    names = {row.metric for row in evaluate(data.train.images(torch.arange(20)), Reference(data))}
    described = set(re.findall(r"^\| `(\w+)`", METRICS, re.M))
    spaces = set(get_args(FeatureName)) - {"inception"}  # an old name
    assert spaces <= described
    assert described - spaces == {name.removesuffix("_floor").replace("pixels", "F") for name in names} | {
        "label_agreement",
        "steps_mean",
    }


def definition(path: str, name: str) -> str:
    """The source of a function, or of a class's method, of the package."""
    source = (ROOT / "lightning_diff" / path).read_text()
    body: list[ast.stmt] = ast.parse(source).body
    for part in name.split("."):
        (found,) = [node for node in body if getattr(node, "name", None) == part]
        body = getattr(found, "body", [])
    return ast.get_source_segment(source, found) or ""


@pytest.mark.parametrize(("path", "name", "code"), QUOTED.findall(ARCHITECTURE), ids=lambda part: part.split("\n")[0])
def test_the_code_that_the_architecture_quotes_is_the_code(path, name, code):
    there = {line.strip() for line in definition(path, name).splitlines()}
    signature, *lines = code.splitlines()
    assert signature.startswith(f"def {name.rpartition('.')[2]}(")
    assert [line for line in lines if line.strip() != "..." and line.strip() not in there] == []


def test_the_architecture_quotes_every_block_it_shows():
    assert len(QUOTED.findall(ARCHITECTURE)) == ARCHITECTURE.count("```python")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(\w+/[\w/]*\.py)`", ARCHITECTURE))))
def test_the_files_that_the_architecture_names_are_there(path):
    assert (ROOT / "lightning_diff" / path).exists() or (ROOT / path).exists()


def test_the_architecture_lists_every_room_once():
    rooms = re.findall(r"^\| (`.*?`) \| .* \| .* \|$", ARCHITECTURE.partition("## Where is")[0], re.M)
    listed = [room.rstrip("/").removesuffix(".py") for row in rooms for room in re.findall(r"`([\w./]+)`", row)]
    entries = [path for path in (ROOT / "lightning_diff").iterdir() if path.suffix != ".typed"]
    assert sorted(listed) == sorted(path.stem for path in entries if not path.stem.startswith("_"))
