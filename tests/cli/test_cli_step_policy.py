"""A step policy on the command line: in samples, in figures, on another model, and what it leaves no choice of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from messages import tells

from lightning_diff.artifacts import load_denoiser, read_record, save_denoiser
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.artifacts.schedule import Schedule, save_schedule
from lightning_diff.artifacts.step_policy import LearnedPolicy, load_step_policy, save_step_policy
from lightning_diff.cli import app as cli
from lightning_diff.denoiser import Denoiser
from lightning_diff.nets import MLP
from lightning_diff.schedules import StepPolicy
from lightning_diff.schedules.adaptive_sampling import sample_with_policy

NET = {"_target_": "lightning_diff.nets.MLP", "shape": [2], "num_classes": 8, "width": 16, "depth": 1}
RECIPE = "data: {_target_: lightning_diff.data.Toy, n: 600, conditional: true, batch_size: 8}\n"
POLICY = {"max_steps": 9, "sigma_max": 3.0, "sigma_min": 0.02, "width": 8, "gamma": 0.9, "solver": "heun"}


def make(name, kind="denoiser"):
    denoiser = Denoiser(MLP((2,), 8, 16, 1), 0.7, kind=kind)
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    save_denoiser(f"runs/{name}", denoiser, NET, shape=(2,), num_classes=8, images=640)
    Path(f"runs/{name}/recipe.yaml").write_text(RECIPE)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """runs/one, a model, and runs/0.9, a policy for it whose choices depend much on the state."""
    monkeypatch.chdir(tmp_path)
    make("one")
    torch.manual_seed(5)
    policy = StepPolicy(**POLICY)
    torch.nn.init.normal_(policy.net[-1].weight, std=4.0)
    save_step_policy("runs/0.9", LearnedPolicy(policy, {"seed": 0}, read_record("runs/one").sha256))
    return Path("runs/one")


def expected(run, n, labels):
    return sample_with_policy(load_denoiser(run), (2,), range(n), labels, policy=load_step_policy("runs/0.9").policy)


def test_samples_are_the_policys_and_what_they_took_is_said(run, capsys):
    assert cli.main(["sample", "one", "--schedule", "0.9", "--n", "16"]) == 0
    said, target = capsys.readouterr().out.strip().split("\n")
    samples, steps = expected(run, 16, torch.arange(16) % 8)
    mean = float(steps.double().mean())
    assert said == (
        f"heun/policy_0.9: a mean of {mean:.2f} steps and {2 * mean - 1:.2f} evaluations, "
        f"from {min(steps)} to {max(steps)} steps"
    )
    assert target.endswith("runs/one/samples/heun9_policy_0.9_seed0.npz")
    torch.testing.assert_close(torch.from_numpy(np.load(target.split(" in ")[1])["arr_0"]), samples)
    assert cli.main(["sample", "one", "--schedule", "runs/0.9/step_policy.safetensors", "--guidance", "2"]) == 0
    assert "evaluations and the guide's" in capsys.readouterr().out


def test_figures_have_the_mean_evaluations_and_the_steps(run, capsys):
    (run / "schedules").mkdir()
    assert cli.main(["evaluate", "one", "--schedule", "0.9", "--n", "80", "--batch", "50"]) == 0
    said = capsys.readouterr().out
    rows = {row["metric"]: row for row in read(run / "metrics.csv") if row["nfe"]}
    steps, spread = float(rows["steps_mean"]["value"]), float(rows["steps_std"]["value"])
    assert 1 < steps < 9
    assert spread > 0
    assert f"heun/policy_0.9, {steps:.4g} steps, {2 * steps - 1:.4g} evaluations each" in said
    assert {(row["solver"], row["steps"], row["n"], row["seed"]) for row in rows.values()} == {
        ("heun/policy_0.9", "", "80", "0")
    }
    assert all(float(row["nfe"]) == pytest.approx(2 * steps - 1) for row in rows.values())
    assert "frechet_pixels" in rows
    assert (run / "schedule.png").is_file()
    assert cli.main(["evaluate", "one", "--schedule", "0.9", "--n", "80", "--guidance", "2"]) == 0
    last = {row["metric"]: row for row in read(run / "metrics.csv") if row["nfe"]}
    assert float(last["frechet_pixels"]["nfe"]) == pytest.approx(2 * (2 * float(last["steps_mean"]["value"]) - 1))


def test_another_models_policy_is_used_with_a_warning(run):
    make("two")
    with pytest.warns(UserWarning, match="another model"):
        assert cli.main(["sample", "two", "--schedule", "0.9", "--n", "2"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "one", "--steps", "4"), "--steps: ... policy of --schedule"),
        (("sample", "one", "--solver", "heun"), "--solver: ... policy"),
        (("sample", "one", "--grid", "karras"), "--grid: ... policy"),
        (("sample", "one", "--sigma-max", "80"), "--sigma-max: ... policy"),
        (("sample", "one", "--churn", "4"), "--churn: ... heun ... grid"),
        (("evaluate", "one", "--levels", "0.3"), "--levels: ... policy"),
        (("evaluate", "one", "--search"), "--search: ... consistency"),
        (("evaluate", "consistent"), "--schedule: runs/0.9"),
    ],
)
def test_what_it_leaves_no_choice_of_is_refused_in_a_line(run, capsys, words, message):
    make("consistent", "consistency")
    assert cli.main([*words, "--schedule", "0.9"]) == 2
    said = capsys.readouterr().err.strip()
    assert tells(said, f"error: {message}")
    assert "\n" not in said


def test_a_range_beside_a_grid_is_refused_as_well(run, capsys):
    save_schedule("good.json", Schedule([80.0, 1.0, 0.0], "edm", "heun", {}, read_record(run).sha256))
    assert cli.main(["sample", "one", "--schedule", "good.json", "--sigma-min", "0.1"]) == 2
    assert tells(capsys.readouterr().err, "error: --sigma-min: ... --schedule")


def test_a_damaged_one_is_one_line(run, capsys):
    path = Path("runs/0.9/step_policy.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    assert cli.main(["sample", "one", "--schedule", "0.9"]) == 2
    assert "step_policy.safetensors" in capsys.readouterr().err
