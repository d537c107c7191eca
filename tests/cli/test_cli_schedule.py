"""Schedules on the command line: found, kept, continued, used for samples and figures, on this model and on others."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import tells

from lightning_diff import schedules
from lightning_diff.artifacts import load_denoiser, read_record, save_denoiser
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.artifacts.schedule import Schedule, load_schedule, save_schedule
from lightning_diff.cli import app as cli
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import MLP
from lightning_diff.runs import find_schedule
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules.grids import through_angles

NET = {"_target_": "lightning_diff.nets.MLP", "shape": [2], "num_classes": 8, "width": 16, "depth": 1}
RECIPE = "data: {_target_: lightning_diff.data.Toy, n: 600, conditional: true, batch_size: 8}\n"


def make(name, kind="denoiser", seed=0):
    torch.manual_seed(seed)
    denoiser = Denoiser(MLP((2,), 8, 16, 1), 0.7, kind=kind)
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    save_denoiser(f"runs/{name}", denoiser, NET, shape=(2,), num_classes=8, images=640)
    Path(f"runs/{name}/recipe.yaml").write_text(RECIPE)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find_schedule, "NODES", 12)
    make("one")
    return Path("runs/one")


def find(*words):
    assert cli.main(["schedule", "one", "--trajectories", "16", *words]) == 0
    return load_schedule("runs/one")


def fails(capsys, *words):
    assert cli.main(list(words)) == 2
    return capsys.readouterr().err.strip().removeprefix("error: ")


@pytest.mark.draws
def test_a_schedule_is_the_methods_grid_with_its_origin(run):
    found = find("--steps", "5", "--solver", "heun", "--out", "copy.json")
    record = read_record(run)
    assert (found.method, found.solver, found.steps) == ("art_solver", "heun", 5)
    assert found.model == record.sha256
    assert found.costs["calls"] > 0
    assert load_schedule("copy.json") == found
    problem = find_schedule._Problem(load_denoiser(run), record, find_schedule.Protocol(**found.protocol))
    expected = schedules.art(
        problem.model, problem.noise(0, 16), 5, solver="heun", labels=problem.labels(0, 16), nodes=12
    )
    torch.testing.assert_close(found.grid(), expected, rtol=1e-4, atol=0)
    assert (run / "schedule.png").is_file()


def test_a_measurement_serves_every_number_of_steps_and_resumes_where_it_stopped(run, monkeypatch):
    monkeypatch.setattr(find_schedule, "PART", 8)
    first = find("--steps", "5")
    path = run / "schedules" / "monitor_heun.json"
    before = json.loads(path.read_text())
    whole = find_schedule.estimate
    monkeypatch.setattr(find_schedule, "estimate", None)  # not called again
    assert find("--steps", "9").costs == first.costs
    counted = []

    def estimate(model, noise, *arguments, **options):
        counted.append(len(noise))
        return whole(model, noise, *arguments, **options)

    monkeypatch.setattr(find_schedule, "estimate", estimate)
    assert cli.main(["schedule", "one", "--trajectories", "32"]) == 0
    assert counted == [8, 8]  # the other half
    after = json.loads(path.read_text())
    assert after["calls"] == 2 * before["calls"]
    (run / "schedules" / "art_solver_heun_18.json").write_text("{")  # cut short, as is the measurement
    path.write_text("{")
    assert cli.main(["schedule", "one", "--trajectories", "32"]) == 0
    assert counted == [8, 8, 8, 8, 8, 8]
    torch.testing.assert_close(
        json.loads(path.read_text())["estimate"]["loss"], after["estimate"]["loss"], rtol=1e-6, atol=0
    )


def test_other_weights_are_measured_again(run):
    first = find("--steps", "5")
    make("one", seed=1)
    second = find("--steps", "5")
    assert first.model != second.model
    assert first.sigmas != second.sigmas


def test_samples_and_figures_take_the_grid(run, capsys):
    found = find("--method", "edm_free", "--steps", "4", "--solver", "unipc")
    capsys.readouterr()
    assert cli.main(["sample", "one", "--schedule", "one", "--n", "8", "--out", "own.npz"]) == 0
    assert cli.main(["sample", "one", "--schedule", "runs/one/schedule.json", "--steps", "6", "--n", "8"]) == 0
    target = capsys.readouterr().out.split(" in ")[-1].strip()
    assert target == "runs/one/samples/unipc6_edm_free_of_4_seed0.npz"
    denoiser, labels = load_denoiser(run), torch.arange(8)
    for path, sigmas in (("own.npz", found.grid()), (target, through_angles(found.grid(), 6, 0.7))):
        expected = generate(denoiser, (2,), range(8), labels, sigmas=sigmas, solver="unipc")
        torch.testing.assert_close(torch.from_numpy(np.load(path)["arr_0"]), expected)
    assert cli.main(["evaluate", "one", "--schedule", "one", "--solver", "heun"]) == 0
    rows = [row for row in read(run / "metrics.csv") if row["metric"].startswith("frechet") and row["nfe"]]
    assert [(row["solver"], row["steps"], row["nfe"]) for row in rows] == [("heun/edm_free", "4", "7")]
    assert (run / "schedule.png").is_file()


def test_a_grid_of_another_model_is_used_with_a_warning(run):
    find("--method", "edm", "--steps", "4")
    make("two", seed=1)
    with pytest.warns(UserWarning, match="another model"):
        assert cli.main(["sample", "two", "--schedule", "one", "--n", "2"]) == 0


QUICK = ("model.learner.width=8", "trainer.max_steps=2", "data.batch_size=8", "callbacks=[]")


@pytest.fixture
def quick(monkeypatch):
    """Trained grids in two updates; what was trained is counted."""
    from lightning_diff.runs import learn_schedule as learning

    trained = []
    learn, train = learning.learn_schedule, learning.train

    def learn_quickly(*words, overrides=(), **more):
        return learn(*words, overrides=[*overrides, *QUICK], **more)

    monkeypatch.setattr(learning, "learn_schedule", learn_quickly)
    monkeypatch.setattr(learning, "train", lambda *words, **more: [trained.append(1), train(*words, **more)])
    return trained


def learned(*words):
    assert cli.main(["schedule", "one", *words]) == 0
    return load_schedule("runs/one")


@pytest.mark.whole
def test_art_rl_learns_once_for_all_steps_and_again_for_another_range_seed_or_model(run, quick):
    found = learned("--method", "art_rl", "--steps", "3")
    assert (found.method, found.solver, found.steps) == ("art_rl", "heun", 3)
    assert (found.protocol["learner"], found.protocol["reward"]) == ("StickBreaking", "Surrogate")
    assert min(found.costs["calls"], found.costs["seconds"]) > 0
    other = learned("--method", "art_rl", "--steps", "6", "--solver", "euler")
    assert (other.steps, other.sigmas[0], len(quick)) == (6, 80.0, 1)
    assert learned("--method", "art_rl", "--steps", "3") == found
    near = learned("--method", "art_rl", "--steps", "3", "--sigma-max", "10")
    assert (near.sigmas[0], near.protocol["sigma_max"], len(quick)) == (10.0, 10.0, 2)
    assert learned("--method", "art_rl", "--steps", "3", "--seed", "1").sigmas != found.sigmas
    make("one", seed=1)
    assert learned("--method", "art_rl", "--steps", "3").model != found.model
    assert len(quick) == 4


def test_end_point_learns_for_a_solver_and_its_steps(run, quick):
    found = learned("--method", "end_point", "--steps", "3", "--solver", "unipc", "--guidance", "1.5")
    assert (found.method, found.solver, found.steps) == ("end_point", "unipc", 3)
    assert (found.protocol["reward"], found.protocol["guidance"]) == ("EndPoint", 1.5)
    assert learned("--method", "end_point", "--steps", "1").sigmas == [80.0, 0.0]
    assert len(quick) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("schedule", "one", "--method", "art_sovler"), "--method: ... 'art_sovler' ... art_solver"),
        (("schedule", "one", "--solver", "consistency"), "--solver: ... 'consistency'"),
        (("schedule", "one", "--sigma-min", "0"), "... sigma_min < sigma_max"),
        (("schedule", "one", "--method", "art_rl", "--trajectories", "9"), "--trajectories: art_rl"),
        (("schedule", "one", "--out", "x.txt"), "... x.txt ... .json"),
        (("schedule", "consistent"), "... consistent ... consistency model"),
        (("sample", "one", "--schedule", "one"), "... one ... schedule RUN"),
        (("sample", "one", "--schedule", "good.json", "--grid", "karras"), "--grid: ... --schedule"),
        (("evaluate", "one", "--schedule", "good.json", "--levels", "0.3"), "--levels: ... --schedule"),
        (("sample", "one", "--schedule", "short.json", "--steps", "3"), "... short.json ... one step"),
    ],
)
def test_mistakes_are_one_sentence(run, capsys, words, message):
    make("consistent", "consistency")
    model = read_record(run).sha256
    save_schedule("good.json", Schedule([80.0, 1.0, 0.0], "edm", "heun", {}, model))
    save_schedule("short.json", Schedule([80.0, 0.0], "edm", "heun", {}, model))
    assert tells(fails(capsys, *words), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("sigmas"), "no schedule"),
        (lambda r: r.update(sigmas=[80, 0.1, 0.1, 0]), "decrease strictly"),
        (lambda r: r.update(sigmas=[80, 0.1]), "last noise level"),
        (lambda r: r.update(sigmas="many"), "sigmas: "),
        (lambda r: r.update(format=99), "format 99"),
    ],
)
def test_damaged_files_are_named(tmp_path, change, message):
    path = save_schedule(tmp_path, Schedule([80.0, 1.0, 0.0], "edm", "heun", {"seed": 0}, "abc", {"seconds": 1.0}))
    assert load_schedule(path).sigmas == [80.0, 1.0, 0.0]
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=message) as error:
        load_schedule(tmp_path)
    assert "schedule.json" in str(error.value)


def test_no_grid_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="last noise level"):
        save_schedule(tmp_path, Schedule([80.0, 1.0], "edm", "heun", {}, "abc"))
    assert not list(tmp_path.iterdir())
