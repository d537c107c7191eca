"""What holds for every test.

One thread: two cores with several processes on them collapse otherwise, and sums keep their order. Figures are saved blank: drawing
one takes longer than all else of a short run. A test of what is in them is marked `draws`.
"""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import checked_types
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tiny import TINY

torch.set_num_threads(1)


_draw = Figure.savefig


def _blank(figure, file, **options):
    Image.new("RGB", (8, 8)).save(file, format=options.get("format"))


Figure.savefig = _blank  # from the start, for what a module trains once
os.fsync = lambda file: None  # no test takes the power away


def pytest_collection_modifyitems(config, items):
    """Where all tests are run, those of seconds are left out unless asked for; where a file or a name is given, none is."""
    asked_for = config.option.keyword or "whole" in config.option.markexpr
    if asked_for or [Path(word).absolute() for word in config.args] != [Path(__file__).parent]:
        return
    left_out = [item for item in items if "whole" in item.keywords]
    items[:] = [item for item in items if "whole" not in item.keywords]
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish():
    """Looking for garbage among all that is imported, over and over, takes a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def _same_start():
    checked_types.start_again()
    torch.manual_seed(0)
    if torch.distributed.is_initialized():  # by a Trainer of another test, which leaves that to the program's end
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def _figures(request, monkeypatch):
    if "draws" in request.keywords:
        monkeypatch.setattr(Figure, "savefig", _draw)


@pytest.fixture(scope="session")
def train_here():
    """train_here(name, *overrides): a run of a tenth of a second in the working folder; returns the run's folder."""
    from lightning_diff.runs import recipe  # 4 s, which most tests do without
    from lightning_diff.runs import train as run

    def train(name: str, *overrides: str) -> Path:
        path = Path(f"{name}.yaml").absolute()
        path.write_text(TINY)
        run.train(recipe.load(path, overrides), path)
        return Path("runs") / name

    return train


@pytest.fixture
def train(train_here, tmp_path, monkeypatch):
    """train(name, *overrides): likewise, in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return train_here


@pytest.fixture
def state():
    """state(run folder): its newest checkpoint."""
    from lightning_diff.artifacts import checkpoints

    return lambda folder: torch.load(checkpoints.newest(folder / "checkpoints"), weights_only=True)
