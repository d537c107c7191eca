"""Comparing runs: one picture, one table, seeds as one row, and a mark on what does not compare."""

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from messages import tells
from noise_reports import LEVELS, report

from lightning_diff.artifacts.metrics_table import HEADER, MetricsTable
from lightning_diff.cli import app as cli
from lightning_diff.runs import compare, compare_figure, compare_groups

PROTOCOL = {"n": 500, "seed": 0, "solver": "heun", "steps": 18, "nfe": 35, "ema": "ema", "reference": "abc"}


RECIPE = """
seed: 3
model: {_target_: lightning_diff.DiffusionModule, net: {_target_: lightning_diff.nets.MLP, width: 16}}
data: {_target_: lightning_diff.data.Toy, n: 256, batch_size: 16}
trainer: {max_steps: 8}
"""


DRAW = compare_figure.draw


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(name, *evaluations, tilt=0, recipe=RECIPE): a run; an evaluation is (images, distance, changes of the protocol)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_figure, "draw", lambda *_: Figure((1, 1)))  # a picture takes a second

    def make(name: str, *evaluations: tuple[int, float, dict], tilt: float = 0.0, recipe: str | None = None) -> Path:
        folder = Path("runs") / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(f"name: {name}\n{RECIPE if recipe is None else recipe}")
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
def test_figures_of_another_protocol_are_shown_and_marked(make, capsys, changes, words):
    make("a", (1000, 3.5, {}))
    make("b", (1000, 2.25, changes), recipe=f"{RECIPE}\nx: 1")
    assert cli.main(["compare", "a", "b"]) == 0
    out = capsys.readouterr().out
    assert tells(out, f"... b*: figures ... a's: {words}")
    (line,) = [line.split() for line in out.splitlines() if line.startswith("frechet_x ")]
    assert line[:3] == ["frechet_x", "3.5", "2.25*"]
    marks = {row["run"]: row["differs"] for row in rows() if row["metric"] == "frechet_x"}
    assert marks["a"] == ""
    assert all(name in marks["b"] for name in words.split(" ")[:1])
    assert Path("compare.png").is_file()


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
        make(
            f"run{index}",
            (500, 4.0, {}),
            (1000, 3.5 - index / 9, {}),
            tilt=0.05 * index,
            recipe=f"{RECIPE}\nx: {index}",
        )
    runs = compare.read([Path("runs") / f"run{index}" for index in range(5)])
    figure = DRAW(compare_groups.series(compare_groups.grouped(runs)))
    panels = [axes for axes in figure.axes if axes.get_lines()]
    assert len(panels) == 5  # loss and figure over images; mean, variance, effort over levels
    colours = [list(dict.fromkeys(line.get_color() for line in axes.get_lines())) for axes in panels]
    assert len(colours[0]) == 5
    assert all(colour == colours[0] for colour in colours)
    assert panels[1].get_lines()[0].get_xydata().tolist() == [[0.5, 4.0], [1.0, 3.5]]
    maps = [mesh for axes in figure.axes for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    maps = [mesh for mesh in maps if mesh.axes.get_xlabel().startswith("thousand")]
    assert len(maps) == 5
    assert len({mesh.get_clim() for mesh in maps}) == 1
    low, high = maps[0].get_clim()
    values = np.concatenate([run.noise.history[:, 2].flatten() for run in runs])
    values = np.log10(values[values > 0])
    assert ((values >= low) & (values <= high)).mean() > 0.9


def test_runs_of_one_name_in_two_places_keep_apart(make, tmp_path):
    first = make("a")
    first.rename(tmp_path / "a")
    make("a")
    assert [run.name for run in compare.read([Path("a"), Path("runs/a")])] == ["a", "runs/a"]


def test_mistakes_are_one_line(make, capsys):
    make("alpha")
    assert fails(capsys, "alpha", "alpa").startswith("alpa: ")
    assert fails(capsys, "alpha", "--out", "picture.jpg").startswith("--out: picture.jpg")
    assert not list(Path().glob("picture*"))


@pytest.mark.parametrize("column", [name for name in compare.COMPARABLE if name != "n"])
def test_every_column_but_the_seed_sets_figures_apart(make, column):
    for name in ("a", "b"):
        make(name, (1000, 3.5, {column: f"one{name}"}))
    make("c", (1000, 3.5, {column: "onea", "seed": 9}))
    a, b, c = (next(iter(run.evaluations())) for run in compare.read([Path(f"runs/{name}") for name in "abc"]))
    assert compare_groups.differing(a, b) == (column,)
    assert compare_groups.differing(a, c) == ()


def seeded(seed: int, more: str = "") -> str:
    return RECIPE.replace("seed: 3", f"seed: {seed}") + more


def test_seeds_become_one_row_with_mean_interval_and_number(make, capsys):
    for seed, distance in ((0, 3.0), (1, 4.0), (2, 8.0)):
        make(f"edm,seed={seed}", (500, 9.0, {}), (1000, distance, {"seed": seed}), recipe=seeded(seed))
    make("plain", (1000, 7.0, {}), recipe=seeded(0, "resume: never\ncallbacks: []"))
    assert cli.main(["compare", "edm,seed=0", "edm,seed=1", "plain", "edm,seed=2"]) == 0
    (row,) = [row for row in rows() if row["run"] == "edm" and row["metric"] == "frechet_x"]
    spread = statistics.stdev([3.0, 4.0, 8.0]) / 3**0.5 * 4.302653
    assert (float(row["value"]), row["seeds"], row["seed"]) == (5.0, "3", "several")
    assert float(row["low"]) == pytest.approx(5 - spread, rel=1e-4)
    assert float(row["high"]) == pytest.approx(5 + spread, rel=1e-4)
    assert {row["run"] for row in rows()} == {"edm", "plain"}
    out = capsys.readouterr().out
    assert ["frechet_x", "5", "±", "6.6", "7", "0.125"] in [line.split() for line in out.splitlines()]
    assert out.splitlines()[0].split() == ["edm", "(n=3)", "plain", "floor"]
    assert "edm,seed=2 (seed 2)" in out


def test_json_has_the_numbers_of_the_table_unrounded(make, capsys):
    for seed, distance in ((0, 0.1), (2**63, 0.7654321)):
        make(f"edm,seed={seed}", (1000, distance, {"seed": seed}), recipe=seeded(seed))
    make("other", (1000, 7.0, {"nfe": 3.5, "reference": "1234"}), recipe=seeded(2**63, "resume: never\ncallbacks: []"))
    assert cli.main(["compare", "edm,seed=0", f"edm,seed={2**63}", "other", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["runs"] == {"edm": ["edm,seed=0", f"edm,seed={2**63}"], "other": ["other"]}
    assert found["files"] == {"picture": "compare.png", "table": "compare.csv"}
    by_name = {(row["run"], row["metric"]): row for row in found["rows"]}
    edm, other = by_name["edm", "frechet_x"], by_name["other", "frechet_x"]
    half = statistics.stdev([0.1, 0.7654321]) / 2**0.5 * 12.7062
    assert edm["value"] == statistics.fmean([0.1, 0.7654321])
    assert (edm["low"], edm["high"]) == (edm["value"] - half, edm["value"] + half)
    assert (edm["seeds"], edm["images"], edm["floor"], edm["seed"], edm["differs"]) == (2, 1000, 0.125, "several", [])
    assert (other["low"], other["seed"], other["nfe"], other["reference"]) == (None, 0, 3.5, "1234")
    assert other["differs"] == ["reference", "nfe"]
    assert any("reference" in remark for remark in found["remarks"])
    assert by_name.keys() == figures().keys()


def test_a_figure_that_not_every_seed_has_says_of_how_many_it_is(make, capsys):
    for seed, evaluations in ((0, [(1000, 3.0, {})]), (1, [(1000, 5.0, {})]), (2, [])):
        make(f"a{seed}", *evaluations, recipe=seeded(seed))
    assert cli.main(["compare", "a0", "a1", "a2"]) == 0
    assert ["frechet_x", "4", "±", "13", "(n=2)", "0.125"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]


@pytest.mark.parametrize(
    ("recipe", "images"),
    [
        (seeded(3), 1000),  # the same seed once more is no second sample
        (seeded(4).replace("width: 16", "width: 32"), 1000),
        (seeded(4).replace("max_steps: 8", "max_steps: 9"), 1000),
        (seeded(4), 2000),  # trained for longer
        ("seed: 4", 1000),  # a recipe that cannot be read
    ],
)
def test_other_runs_stay_apart(make, capsys, recipe, images):
    make("a", (1000, 3.5, {}))
    make("b", (images, 2.25, {}), recipe=recipe)
    assert cli.main(["compare", "a", "b"]) == 0
    assert {row["run"] for row in rows()} == {"a", "b"}
    assert ("stands apart" in capsys.readouterr().out) == (recipe in (seeded(3), seeded(4)))


def test_where_a_run_is_and_who_tracks_it_make_no_other_experiment(make):
    make("a", (1000, 3.5, {}), recipe=seeded(1))
    make(
        "b",
        (1000, 2.5, {}),
        recipe=seeded(2, "runs_dir: elsewhere").replace("max_steps: 8", "max_steps: 8, logger: wandb"),
    )
    (group,) = compare_groups.grouped(compare.read([Path("runs/a"), Path("runs/b")]))
    assert len(group.runs) == 2


def test_a_teacher_and_its_student_are_compared_and_marked(make, capsys):
    make("teacher", (1000, 3.5, {}))
    student = RECIPE.replace("DiffusionModule", "ConsistencyModule")
    one, two = ({"solver": "consistency", "steps": n, "nfe": n} for n in (1, 2))
    make("student", (1000, 4.5, one), (1000, 3.75, two), recipe=student)
    assert cli.main(["compare", "teacher", "student"]) == 0
    out = capsys.readouterr().out
    assert {run: value for (run, metric), (value, _) in figures().items() if metric == "frechet_x"} == {
        "teacher": "3.5",
        "student, nfe 1": "4.5",
        "student, nfe 2": "3.75",
    }
    assert tells(out, "... student, nfe 2*: figures ... teacher's: solver heun and consistency, nfe 35 and 2")
    assert tells(out, "... losses ... teacher's: ConsistencyModule and not DiffusionModule")
    losses = {row["run"]: row["differs"] for row in rows() if row["metric"] == "train/unweighted_loss"}
    assert losses == {"teacher": "", "student, nfe 1": "losses", "student, nfe 2": "losses"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [(("n: 256", "n: 300"), "other data (data.n)"), (("MLP, width: 16}", "MLP}, noise: {x: 1}"), "other noise levels")],
)
def test_losses_of_other_data_and_noise_levels_are_marked(make, capsys, change, expected):
    make("a")
    make("b", recipe=RECIPE.replace(*change))
    assert cli.main(["compare", "a", "b"]) == 0
    out = capsys.readouterr().out
    assert f"b*: losses do not compare with a's: {expected}" in out


def test_images_that_moved_are_the_same_data(make, capsys):
    for name, path in (("a", "here"), ("b", "there")):
        make(name, (1000, 3.5, {}), recipe=RECIPE.replace("n: 256", f"path: {path}"))
    assert cli.main(["compare", "a", "b"]) == 0
    assert "do not compare" not in capsys.readouterr().out


@pytest.mark.draws
def test_nothing_in_a_run_folder_stops_the_comparison(make, capsys, monkeypatch):
    make("alpha", (1000, 3.5, {}))
    monkeypatch.setattr(compare_figure, "draw", DRAW)
    Path("runs/empty").mkdir()
    damaged = make("damaged", recipe="[")
    (damaged / "noise_levels.csv").write_bytes(b"\xff\xfe")
    (damaged / "metrics.csv").write_text("what,is,this\n1,2,3\n")
    strange = make("strange", (1000, float("nan"), {}))
    with (strange / "metrics.csv").open("a") as file:
        file.write(f"3,many,frechet_x,few{',' * (len(HEADER) - 4)}\n")
    words = ["alpha", "empty", "damaged", "strange", "runs/alpha", "alpha"]
    assert cli.main(["compare", *words]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["alpha", "empty", "damaged", "strange", "floor"]  # each folder once
    for file in ("empty/noise_levels.csv", "damaged/noise_levels.csv", "damaged/metrics.csv", "damaged/recipe.yaml"):
        assert f"runs/{file}" in out
    assert cli.main(["compare", "empty"]) == 0
    assert Path("compare.png").is_file()


def test_the_quantiles_are_students():
    from scipy.stats import t

    for freedom in (1, 2, 9, 10, 11, 15, 30, 200):
        assert compare_groups.t95(freedom) == pytest.approx(float(t.ppf(0.975, freedom)), abs=2e-4)
    assert compare_groups.mean_and_interval([2.0]) == (2.0, None)
    assert compare_groups.mean_and_interval([1.0, 2.0, 6.0]) == pytest.approx((3.0, 4.3027 * (7 / 3) ** 0.5), rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("how_many", [1, 2])
def test_a_figure_that_is_no_number_is_shown_as_it_is(make, capsys, monkeypatch, bad, how_many):
    """A run that went wrong, or was too short to be measured, is compared with what did not."""
    monkeypatch.setattr(compare_figure, "draw", DRAW)
    for seed, value in enumerate([bad] * how_many + [2.0]):
        make(f"s{seed}", (1000, value, {}), recipe=RECIPE.replace("seed: 3", f"seed: {seed}"))
    assert cli.main(["compare", *(f"s{seed}" for seed in range(how_many + 1))]) == 0
    values = {row["metric"]: (row["value"], row["low"], row["seeds"]) for row in rows()}
    assert values["frechet_x"] == (repr(bad), "nan", str(how_many + 1))
    assert values["train/unweighted_loss"][1] != "nan"
    assert f"{bad} ± nan" in capsys.readouterr().out


def test_the_last_steps_own_weights_are_what_version_0_1_left_blank(make):
    make("old", (1000, 3.5, {"ema": ""}))
    make("new", (1000, 2.5, {"ema": "none"}))
    assert cli.main(["compare", "old", "new"]) == 0
    assert {row["differs"] for row in rows()} == {""}
