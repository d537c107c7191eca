"""An imported model where a run is asked for: commands, and trainings that start from it, are taught by it or look at it."""

import shutil
from pathlib import Path

import pytest
import torch
from messages import tells
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from pipeline_folders import write

from lightning_diff.artifacts import load_denoiser, read_record
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.artifacts.schedule import load_schedule
from lightning_diff.cli import main
from lightning_diff.runs import doctor, find_schedule, recipe
from lightning_diff.runs import train as run

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
DATA = "data: {_target_: conditioned.Drawn, size: [4, 8, 8], classes: 3, batch_size: 8}"
NOISE = "data: {_target_: lightning_diff.data.Noise, model: dit, batch_size: 8}"
MODELS = {
    "start": ("{_target_: lightning_diff.DiffusionModule, start: dit}", DATA),
    "teacher": ("{_target_: lightning_diff.ConsistencyModule, teacher: dit, guidance: [1, 3], warmup: 0}", DATA),
    "schedule": (
        "{_target_: lightning_diff.ScheduleModule, model: dit, "
        "learner: {_target_: lightning_diff.schedules.StickBreaking, steps: 2, width: 4}}",
        NOISE,
    ),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """runs/dit, which refers to a pipeline of classes beside it."""
    root = tmp_path_factory.mktemp("imported")
    write(root / "runs" / "folder", "dit")
    assert main(["import", str(root / "runs" / "folder"), "--out", str(root / "runs" / "dit")]) == 0
    return root


@pytest.fixture
def here(imported, tmp_path, monkeypatch):
    shutil.copytree(imported, tmp_path, dirs_exist_ok=True)
    record = tmp_path / "runs" / "dit" / "model.json"
    record.write_text(record.read_text().replace(str(imported), str(tmp_path)))  # of the autoencoder
    monkeypatch.chdir(tmp_path)


def said(capsys, *words, code=0):
    capsys.readouterr()
    found = main(list(words))
    told = "".join(capsys.readouterr())
    assert found == code, told
    return told


def test_doctor_says_what_it_is_and_what_of_it_is_gone_or_changed(here, capsys):
    found = {each.what: each for each in doctor.examine(Path("runs/dit"))}
    assert {each.kind for each in found.values()} == {"ok"}
    assert tells(found["dit"].text, "an imported model, DiTTransformer2DModel of 4x8x8 ...")
    assert found["autoencoder"].text == str(Path("runs/folder/vae").absolute())
    shutil.rmtree("runs/folder/vae")
    file = Path("runs/folder") / WEIGHTS
    save_file({name: each + 1 for name, each in load_file(file).items()}, file)
    changed = said(capsys, "doctor", "dit", code=1)
    for facts in (
        "! dit ... an imported model ...",
        f"... {file.name} ... has changed ...",
        "... vae: is not there ...",
    ):
        assert any(tells(line, facts) for line in changed.splitlines()), facts
    file.unlink()
    assert "is not there, and runs/dit refers to it" in said(capsys, "doctor", "dit", code=1)
    Path("runs/dit/model.json").write_text("{")
    assert "what describes it cannot be read" in said(capsys, "doctor", "dit", code=1)


def test_it_is_listed_and_compared_without_a_recipe(here, capsys):
    assert tells(said(capsys, "runs").splitlines()[1], "dit ... model")
    assert tells(
        said(capsys, "compare", "dit"), "... dit: runs/dit: a model without a run; ... evaluate ... --data ..."
    )
    described = said(capsys, "describe", "runs/dit", code=2)
    assert tells(described, "error: describe: runs/dit is a run ... doctor runs/dit ...")


def test_a_copy_has_all_its_weights(here, capsys):
    assert tells(said(capsys, "export", "dit", code=2), "error: ... is a model already; --out FOLDER ...")
    assert tells(
        said(capsys, "export", "dit", "--ema", "slow", "--out", "x", code=2), "error: ... no other average ..."
    )
    assert not Path("x").exists()
    said(capsys, "export", "dit", "--out", "whole")
    record, before = read_record("whole"), read_record("runs/dit")
    expected = load_denoiser("runs/dit").net.state_dict()
    shutil.rmtree("runs")
    assert (record.weights, record.sampling, record.time) == ((), before.sampling, before.time)
    found = load_denoiser("whole").net.state_dict()
    assert all(torch.equal(found[name], each) for name, each in expected.items())
    assert doctor.examine(Path("whole"))[0].text.startswith("a model without a run, DiTTransformer2DModel")


def test_a_grid_is_found_between_the_ends_of_its_table_for_its_solver(here, capsys):
    said(capsys, "schedule", "dit", "--steps", "2", "--method", "log_snr", "--trajectories", "2")
    found, (low, high) = load_schedule("runs/dit"), (0.0100005, 157.407)
    assert found.solver == "euler"
    assert found.sigmas == pytest.approx([high, low, 0.0], rel=1e-4)
    flow = read_record("runs/dit").sampling | {
        "arguments": {"sigma_min": 0.009, "sigma_max": float("inf"), "shift": 3.0}
    }
    record = type("Record", (), {"sampling": flow})
    assert find_schedule.own_range(record, None, None) == (0.009, 80.0)
    assert find_schedule.own_range(record, 0.1, 9.0) == (0.1, 9.0)


@pytest.mark.whole
@pytest.mark.parametrize("how", MODELS)
def test_recipes_take_it_by_its_name(here, how):
    model, data = MODELS[how]
    Path("new.yaml").write_text(
        f"name: new\nmodel: {model}\n{data}\ntrainer: {{accelerator: cpu, max_steps: 1, log_every_n_steps: 1}}\n"
    )
    run.train(recipe.load("new.yaml", []), "new.yaml")
    if how == "schedule":
        assert load_schedule("runs/new").model == read_record("runs/dit").identity
        return
    shutil.rmtree("runs/folder")  # what was trained is whole
    denoiser, record = load_denoiser("runs/new"), read_record("runs/new")
    assert (record.kind, record.weights) == ("denoiser" if how == "start" else "consistency", ())
    assert denoiser.parametrisation["time"] == read_record("runs/dit").time


def test_it_is_measured_against_data_that_are_named(here, capsys):
    write(Path("pixels"), "ddim")
    said(capsys, "import", "pixels", "runs/ddim")
    Path("real.yaml").write_text(
        "name: real\nmodel: {_target_: lightning_diff.DiffusionModule}\n"
        "data: {_target_: conditioned.Drawn, size: [1, 8, 8], classes: 4, n: 256, batch_size: 8}\n"
        "trainer: {max_steps: 1}\n"
    )
    assert tells(said(capsys, "evaluate", "ddim", code=2), "error: ... --data")
    how = ("--data", "real.yaml", "--feature", "pixels", "-n", "80", "--steps", "1")
    said(capsys, "evaluate", "ddim", *how)
    assert {row["solver"] for row in read(Path("runs/ddim/metrics.csv"))} >= {"euler"}
    assert "without a run" not in said(capsys, "compare", "ddim")


def test_it_has_nothing_to_resume_and_stays_as_it_is(here, capsys):
    before = Path("runs/dit/model.json").read_bytes()
    assert tells(said(capsys, "resume", "dit", code=2), "error: ... runs/dit ... recipe.yaml ...")
    assert Path("runs/dit/model.json").read_bytes() == before
