"""The list of runs: step, loss, best figure, size and state, whatever state the files are in."""

import json
import shutil
from pathlib import Path

import pytest
from messages import tells

from lightning_diff.artifacts.metrics_table import MetricsTable
from lightning_diff.cli import main
from lightning_diff.runs import listing
from lightning_diff.runs.lock import locked


@pytest.fixture
def runs(train):
    """Folders of one run: finished, stopped in the middle, with a checkpoint cut short, with no recipe."""
    finished = train("finished", "trainer.max_steps=4")
    for name in ("damaged", "lost", "garbled", "hurt_table"):
        shutil.copytree(finished, f"runs/{name}")
    (path,) = Path("runs/damaged/checkpoints").glob("*.ckpt")
    path.write_bytes(path.read_bytes()[:100])
    Path("runs/lost/recipe.yaml").unlink()
    Path("runs/garbled/recipe.yaml").write_text("a: [")
    Path("runs/hurt_table/metrics.csv").write_text("a,b\n1,2\n")
    shutil.copytree(finished, "runs/stopped")
    Path("runs/stopped/finished.json").unlink()
    Path("runs/begun/checkpoints").mkdir(parents=True)
    shutil.copy(finished / "recipe.yaml", "runs/begun/recipe.yaml")
    Path("runs/no_run").mkdir()
    Path("runs/a_file").write_text("x")
    return Path("runs")


def test_the_states(runs):
    states = {run.name: run.state for run in listing.look(runs)}
    assert states == {
        "begun": "stopped",
        "damaged": "damaged",
        "finished": "finished",
        "garbled": "damaged",
        "hurt_table": "damaged",
        "lost": "damaged",
        "stopped": "stopped",
    }
    with locked(runs / "stopped"):
        assert listing.one(runs / "stopped").state == "training"
    assert listing.one(runs / "stopped").state == "stopped"


def test_raising_the_steps_is_not_finished(runs):
    (runs / "finished" / "finished.json").write_text(json.dumps({"step": 3, "images": 48}))
    assert listing.one(runs / "finished").state == "stopped"


def test_the_numbers(runs):
    run = listing.one(runs / "finished")
    assert (run.step, run.max_steps, run.images) == (4, 4, 64)
    assert run.size == sum(path.stat().st_size for path in (runs / "finished").rglob("*") if path.is_file())
    assert run.loss == pytest.approx(float(_last(runs / "finished", "train/loss")), rel=1e-6)
    begun = listing.one(runs / "begun")
    assert (begun.step, begun.images, begun.loss, begun.best) == (0, 0, None, None)


def _last(folder: Path, metric: str) -> str:
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [row[3] for row in rows if row[2] == metric][-1]


def test_the_best_figure_is_the_least_distance_of_generated_images(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")

    def measured(name: str, value: float, **more: object) -> None:
        table.log_rows(
            [{"images": 1, "step": 1, "metric": name, "value": value, "reference": "r", "solver": "heun"} | more]
        )

    assert listing.best([]) is None
    table.log_metrics({"images": 1, "reward/mean": 0.5}, step=1)
    table.log_metrics({"images": 2, "reward/mean": 0.25}, step=2)
    assert listing.best(listing.read(table.path)) == ("reward/mean", 0.5)
    others = [("precision_x", 0.1), ("kernel_x", 0.2), ("frechet_old", 0.01), ("frechet_x_floor", 0.1)]
    for name, value in [*others, *(("frechet_x", value) for value in (3.0, 2.0, float("nan"), 2.5))]:
        measured(name, value)
    assert listing.best(listing.read(table.path)) == ("frechet_x", 2.0)


def test_the_command(runs, capsys):
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "step", "images", "loss", "best", "figure", "size", "age", "state"]
    (line,) = (line for line in lines if line.startswith("finished"))
    assert line.split()[1:5] == ["4", "/", "4", "64"]
    assert line.split()[-1] == "finished"
    assert main(["runs", "runs/finished"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["runs", "runs/no_run"]) == 0
    assert main(["runs", "nowhere"]) == 2
    assert tells(capsys.readouterr().err, "error: nowhere: ... folder")


def test_sizes_and_ages_are_for_people():
    assert [listing.size(n) for n in (12, 1_234, 12_345_678, 1.2e10)] == ["12 B", "1.23 kB", "12.3 MB", "12 GB"]
    assert [listing.age(s) for s in (-1, 5, 200, 7_300, 180_000)] == ["0 s", "5 s", "3 min", "2 h", "2 d"]
