"""docs/library.md and the notebook: their programs run, in order, and do what is said of them."""

import json
import re
import runpy
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from lightning_diff.artifacts import load_denoiser, read_record
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules import karras

DOCS = Path(__file__).parents[1] / "docs"
PROGRAM = re.compile(r"^\*\*(\w+\.py)\*\*\n\n```python\n(.*?)^```", re.M | re.S)
PROGRAMS = PROGRAM.findall((DOCS / "library.md").read_text())
NOTEBOOK = DOCS / "notebooks" / "first.ipynb"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The folder in which the page's programs ran, and what each printed."""
    folder = tmp_path_factory.mktemp("library")
    found = {}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a plain Trainer has its own opinions on loaders
        patch.chdir(folder)
        for name, program in PROGRAMS:
            Path(name).write_text(program)
            with redirect_stdout(StringIO()) as out:
                runpy.run_path(name, run_name="__main__")
            found[name] = out.getvalue()
    return folder, found


def test_the_page_shows_nothing_that_is_not_run():
    assert (DOCS / "library.md").read_text().count("```python") == len(PROGRAMS) == 4


@pytest.mark.whole
def test_what_was_trained_is_sampled_and_measured(printed):
    folder, out = printed
    assert read_record(folder / "model").ema == "ema"
    assert (folder / "samples.png").stat().st_size > 0
    assert out["sample.py"].startswith("the same samples: True;")
    assert "at 9 evaluations, n 100" in out["measure.py"]
    assert "frechet_classifier" in out["measure.py"].split("n 100")[1]


def test_the_loop_trains(printed):
    folder, out = printed
    losses = [float(line.split()[-1]) for line in out["loop.py"].splitlines()]
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])
    ours = generate(load_denoiser(folder / "loop"), (1, 8, 8), range(2), torch.arange(2), sigmas=karras(4))
    assert torch.isfinite(ours).all()


@pytest.mark.whole
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    space: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), space)
    assert Path("runs/first/report.html").exists()
