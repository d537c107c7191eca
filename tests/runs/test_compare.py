"""Comparing runs: one picture, one table, and no comparison of figures that do not compare."""

import csv
from pathlib import Path

import pytest
import torch
from noise_reports import LEVELS, report

from lightning_diff.artifacts.metrics_table import MetricsTable
from lightning_diff.cli import app as cli
from lightning_diff.runs import compare

PROTOCOL = {"n": 500, "seed": 0, "solver": "heun", "steps": 18, "nfe": 35, "ema": "ema", "reference": "abc"}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(name, *evaluations, tilt=0): a run folder; an evaluation is (images, distance, changes of the protocol)."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, *evaluations: tuple[int, float, dict], tilt: float = 0.0) -> Path:
        folder = Path("runs") / name
        report((tilt * LEVELS).exp(), name=name).write_tables(folder)
        table = MetricsTable(folder / "metrics.csv")
        table.log_metrics({"images": 500, "train/unweighted_loss": 0.9}, step=1)
        table.log_metrics({"images": 1000, "train/unweighted_loss": 0.25 + tilt}, step=2)
        for images, distance, changes in evaluations:
            protocol = PROTOCOL | changes
            floor = {"metric": "frechet_x_floor", "value": 0.125, "n": min(protocol["n"], 500)}
            where = {"images": images, "step": 2}
            table.log_rows([where | {"metric": "frechet_x", "value": distance} | protocol])
            table.log_rows([where | floor | {"reference": protocol["reference"]}])
        return folder

    return make


def rows(path: Path | str = "compare.csv") -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def figures(path: Path | str = "compare.csv") -> dict[tuple[str, str], tuple[str, str]]:
    return {(row["run"], row["metric"]): (row["value"], row["floor"]) for row in rows(path)}


def fails(capsys, *words: str) -> str:
    assert cli.main(["compare", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


def test_the_table_has_every_runs_newest_figures_with_their_floor_and_protocol(make, capsys):
    make("a", (500, 9.0, {}), (1000, 3.5, {}))
    make("b", (1000, 2.25, {"seed": 4}), tilt=0.1)
    assert cli.main(["compare", "a", "runs/b", "--out", "pictures/both.png"]) == 0
    found = figures("pictures/both.csv")
    assert found["a", "frechet_x"] == ("3.5", "0.125")
    assert found["b", "frechet_x"] == ("2.25", "0.125")
    assert found["a", "train/unweighted_loss"] == ("0.25", "")
    assert float(found["b", "variance_spread"][0]) > float(found["a", "variance_spread"][0])
    assert [row["seed"] for row in rows("pictures/both.csv") if row["metric"] == "frechet_x"] == ["0", "4"]
    assert Path("pictures/both.png").read_bytes().startswith(b"\x89PNG")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["a", "b", "floor"]
    assert ["frechet_x", "3.5", "2.25", "0.125"] in lines
    assert ["reference", "abc,", "n", "500,", "solver", "heun,", "nfe", "35"] in lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 400}, "n 500 and 400"),
        ({"solver": "euler", "nfe": 18}, "solver heun and euler, nfe 35 and 18"),
        ({"steps": 9, "nfe": 17}, "nfe 35 and 17"),
        ({"reference": "xyz"}, "reference abc and xyz"),
        ({"ema": "sigma_rel=0.05"}, "ema ema and sigma_rel=0.05"),
        ({"guidance": 3.0}, "guidance nothing recorded and 3"),
        ({"sigmas": "20-0.002 1f3a9c04"}, "sigmas nothing recorded and 20-0.002 1f3a9c04"),
    ],
)
def test_figures_of_another_protocol_are_not_compared(make, capsys, changes, words):
    make("a", (1000, 3.5, {}))
    make("b", (1000, 2.25, changes))
    text = fails(capsys, "a", "b")
    assert text.startswith("a and b: ")
    assert words in text
    assert Path("compare.png").is_file()  # the losses compare all the same
    assert not Path("compare.csv").exists()


def test_the_newest_protocol_that_all_runs_share_is_taken(make):
    make("a", (1000, 3.5, {}), (1000, 1.0, {"nfe": 7}))
    make("b", (1000, 2.25, {}), (1000, 2.0, {"nfe": 9}))
    assert cli.main(["compare", "a", "b"]) == 0
    assert figures()["a", "frechet_x"] == ("3.5", "0.125")
    assert figures()["b", "frechet_x"] == ("2.25", "0.125")


def test_a_floor_is_at_as_many_images_or_at_all_that_are_held_out(make):
    make("many", (1000, 3.5, {"n": 2000}), (1000, 4.5, {"n": 100}), (1000, 3.0, {"n": 2000}))
    (run,) = compare.read([Path("runs/many")])
    assert [rows["frechet_x"]["value"] for rows in run.evaluations().values()] == ["4.5", "3"]
    floors = {protocol[1]: run.floor(found["frechet_x"]) for protocol, found in run.evaluations().items()}
    assert floors == {"100": "0.125", "2000": "0.125"}
    run.metrics.append(run.metrics[-1] | {"n": "100", "value": "0.5"})
    assert {p[1]: run.floor(found["frechet_x"]) for p, found in run.evaluations().items()} == {
        "100": "0.5",
        "2000": "0.125",
    }


def test_runs_without_evaluations_or_metrics_are_drawn_and_leave_their_cells_empty(make, capsys):
    make("a", (1000, 3.5, {}))
    make("bare")
    (make("silent") / "metrics.csv").unlink()
    assert cli.main(["compare", "a", "bare", "silent"]) == 0
    assert ["frechet_x", "3.5", "-", "-", "0.125"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ("silent", "variance_spread") in figures()
    assert cli.main(["compare", "bare", "silent"]) == 0


def test_every_run_has_its_own_colour_in_every_panel_and_one_scale_for_all_heatmaps(make):
    for index in range(5):
        make(f"run{index}", tilt=0.05 * index)
    runs = compare.read([Path("runs") / f"run{index}" for index in range(5)])
    figure = compare.draw(runs)
    panels = [axes for axes in figure.axes if axes.get_lines()]
    assert len(panels) == 3
    colours = [list(dict.fromkeys(line.get_color() for line in axes.get_lines())) for axes in panels]
    assert len(colours[0]) == 5
    assert colours[0] == colours[1] == colours[2]
    maps = [mesh for axes in figure.axes for mesh in axes.collections if axes.get_xlabel().startswith("thousand")]
    assert len(maps) == 5
    assert len({mesh.get_clim() for mesh in maps}) == 1
    low, high = maps[0].get_clim()
    values = torch.cat([run.noise.history[:, 2].flatten() for run in runs])
    values = values[values > 0].log10()
    assert float(((values >= low) & (values <= high)).double().mean()) > 0.9


def test_runs_of_one_name_in_two_places_keep_apart(make, tmp_path):
    first = make("a")
    first.rename(tmp_path / "a")
    make("a")
    assert [run.name for run in compare.read([Path("a"), Path("runs/a")])] == ["a", "runs/a"]


def test_mistakes_are_one_line(make, capsys):
    make("alpha")
    Path("runs/empty").mkdir()
    assert fails(capsys, "alpha", "alpa").startswith("alpa: ")
    assert fails(capsys, "alpha", "runs/alpha").startswith("runs/alpha: ")
    assert fails(capsys, "alpha", "empty").startswith("runs/empty/noise_levels.csv: ")
    assert fails(capsys, "alpha", "--out", "picture.jpg").startswith("--out: picture.jpg")
    assert not list(Path().glob("picture*"))


@pytest.mark.parametrize("column", [name for name in compare.COMPARABLE if name != "n"])
def test_every_column_but_the_seed_sets_figures_apart(make, capsys, column):
    for name in ("a", "b"):
        make(name, (1000, 3.5, {column: f"one{name}"}))
    assert f"{column} onea and oneb" in fails(capsys, "a", "b")
    make("c", (1000, 3.5, {column: "onea", "seed": 9}))
    assert cli.main(["compare", "a", "c"]) == 0


def test_the_last_steps_own_weights_are_what_version_0_1_left_blank(make):
    make("old", (1000, 3.5, {"ema": ""}))
    make("new", (1000, 2.5, {"ema": "none"}))
    assert cli.main(["compare", "old", "new"]) == 0
