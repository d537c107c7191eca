"""Consistency models on the command line: drawn from in two steps, at levels given or found, guided by input only."""

from pathlib import Path

import numpy as np
import pytest
import torch
from messages import tells

from lightning_diff import load_denoiser, samplers, schedules
from lightning_diff.artifacts import read_record, save_denoiser
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.cli import app as cli
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation import rng
from lightning_diff.nets import MLP
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules.sampling import choose

NET = {"_target_": "lightning_diff.nets.MLP", "shape": [2], "num_classes": 8, "width": 16, "depth": 1}
RECIPE = "data: {_target_: lightning_diff.data.Toy, n: 600, conditional: true, batch_size: 8}\n"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """make(guided) -> the denoiser that runs/one holds."""
    monkeypatch.chdir(tmp_path)

    def make(guided=False, kind="consistency"):
        denoiser = Denoiser(MLP((2,), 8, 16, 1, guided=guided), 0.7, kind=kind).eval()
        for weight in denoiser.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        node = NET | ({"guided": True} if guided else {})
        save_denoiser("runs/one", denoiser, node, shape=(2,), num_classes=8, images=640)
        Path("runs/one/recipe.yaml").write_text(RECIPE)
        return denoiser

    return make


def drawn(capsys, *words):
    assert cli.main(["sample", "one", "--n", "16", *words]) == 0
    path = capsys.readouterr().out.split(" in ")[1].strip()
    return torch.from_numpy(np.load(path)["arr_0"]), path


def fails(capsys, *words):
    assert cli.main(list(words)) == 2
    return capsys.readouterr().err.strip().removeprefix("error: ")


def expected(denoiser, sigmas, **options):
    return generate(denoiser, (2,), range(16), torch.arange(16) % 8, sigmas=sigmas, solver="consistency", **options)


def test_samples_take_two_steps_by_default_and_as_many_as_asked_for(model, capsys):
    denoiser = model()
    samples, path = drawn(capsys)
    assert path == "runs/one/samples/consistency2_seed0.npz"
    torch.testing.assert_close(samples, expected(denoiser, schedules.consistency(2, sigma_data=0.7)))
    one, _ = drawn(capsys, "--steps", "1", "--solver", "consistency")
    torch.testing.assert_close(one, expected(denoiser, torch.tensor([80.0, 0.0], dtype=torch.float64)))
    given, _ = drawn(capsys, "--levels", "0.8,0.2")
    torch.testing.assert_close(given, expected(denoiser, torch.tensor([80, 0.8, 0.2, 0], dtype=torch.float64)))
    heun, path = drawn(capsys, "--solver", "heun")
    assert path == "runs/one/samples/heun18_seed0.npz"
    assert not torch.equal(heun, samples)


def test_a_denoiser_is_sampled_as_before(model, capsys):
    model(kind="denoiser")
    assert drawn(capsys)[1] == "runs/one/samples/heun18_seed0.npz"
    assert drawn(capsys, "--solver", "consistency")[1] == "runs/one/samples/consistency2_seed0.npz"


def test_the_levels_that_a_search_found_are_kept_and_used(model, capsys):
    denoiser = model()
    before, _ = drawn(capsys)
    assert cli.main(["evaluate", "one", "--feature", "pixels", "--n", "40", "--search"]) == 0
    out = capsys.readouterr().out
    (level,), start = read_record("runs/one").levels[2], read_record("runs/one").starts[2]
    assert f"best levels: {start:.3g}, {level:.3g}" in out
    assert f"n 40, seed 0, consistency/{level:.3g}, 2 steps, 2 evaluations each" in out
    assert {row["solver"] for row in read("runs/one/metrics.csv")} == {f"consistency/{level:.3g}", ""}
    after, _ = drawn(capsys)
    torch.testing.assert_close(after, expected(denoiser, torch.tensor([start, level, 0], dtype=torch.float64)))
    assert not torch.equal(after, before)
    one, _ = drawn(capsys, "--steps", "1")  # for which nothing was searched
    torch.testing.assert_close(one, expected(denoiser, torch.tensor([80.0, 0.0], dtype=torch.float64)))
    given, _ = drawn(capsys, "--levels", "0.8")  # of which nobody knows a start
    torch.testing.assert_close(given, expected(denoiser, torch.tensor([80, 0.8, 0], dtype=torch.float64)))


def test_the_start_of_one_step_is_searched_and_kept_beside_the_others(model, capsys):
    denoiser = model()
    command = ["evaluate", "one", "--feature", "pixels", "--n", "40", "--search", "--steps", "1"]
    assert cli.main(command) == 0
    record = read_record("runs/one")
    assert record.levels == {}
    assert 0.7 < record.starts[1] <= 80
    assert f"best levels: {record.starts[1]:.3g}; kept" in capsys.readouterr().out
    one, _ = drawn(capsys, "--steps", "1")
    torch.testing.assert_close(one, expected(denoiser, torch.tensor([record.starts[1], 0], dtype=torch.float64)))
    two, _ = drawn(capsys)
    torch.testing.assert_close(two, expected(denoiser, schedules.consistency(2, sigma_data=0.7)))


def test_a_model_that_was_trained_up_to_a_level_is_sampled_from_there(model, capsys):
    denoiser = model()
    denoiser.sigma_max = 20.0
    save_denoiser("runs/one", denoiser, NET, shape=(2,), num_classes=8)
    assert load_denoiser("runs/one").sigma_max == 20
    from_there = schedules.consistency(2, 20.0, sigma_data=0.7)
    assert torch.equal(choose(load_denoiser("runs/one")).sigmas, from_there)
    torch.testing.assert_close(drawn(capsys)[0], expected(denoiser, from_there))
    from_80, _ = drawn(capsys, "--sigma-max", "80")
    torch.testing.assert_close(from_80, expected(denoiser, schedules.consistency(2, sigma_data=0.7)))


def test_guidance_is_an_input_of_one_evaluation_where_there_is_one(model, capsys):
    denoiser = model(guided=True)
    samples, _ = drawn(capsys, "--guidance", "1.7")
    label = torch.arange(16) % 8
    eps = rng.normal(0, "sample", range(16), (2,))

    def denoise(x, sigma):
        return denoiser(x, sigma, label, guidance=torch.full((16,), 1.7))

    def noise(x, step):
        return rng.normal(0, f"churn {step}", range(16), (2,))

    with torch.no_grad():
        by_hand = samplers.consistency(denoise, 80 * eps, schedules.consistency(2, sigma_data=0.7), generator=noise)
    torch.testing.assert_close(samples, by_hand)
    assert cli.main(["evaluate", "one", "--feature", "pixels", "--n", "40", "--guidance", "1.7"]) == 0
    assert "2 steps, 2 evaluations each" in capsys.readouterr().out


def test_what_cannot_be_is_refused(model, capsys):
    model()
    for command in ("sample", "evaluate"):
        assert tells(fails(capsys, command, "one", "--guidance", "2"), "--guidance: ... consistency ... model.guidance")
    assert tells(fails(capsys, "sample", "one", "--levels", "a,b"), "--levels: ... 'a,b'")
    assert tells(fails(capsys, "sample", "one", "--levels", "0.2,0.8"), "--levels: sigmas: ... decrease")
    assert tells(fails(capsys, "sample", "one", "--levels", "0.2", "--solver", "heun"), "--levels: ... solver")
    assert tells(fails(capsys, "sample", "one", "--churn", "5"), "--churn: ... heun ... consistency")
    assert tells(
        fails(capsys, "evaluate", "one", "--search", "--grid", "karras"), "--search: ... consistency ... --grid"
    )
    nothing_left = ("evaluate", "one", "--search", "--steps", "1", "--sigma-max", "20")
    assert tells(fails(capsys, *nothing_left), "--search: ... --sigma-max")
    assert tells(fails(capsys, "evaluate", "one", "--search", "--levels", "0.5"), "--search: ... --levels")
    assert tells(fails(capsys, "evaluate", "one", "--min-recall", "0.5"), "--min-recall: ... --search")
    assert tells(fails(capsys, "evaluate", "one", "--search", "--min-recall", "1.5"), "--min-recall: ... 1.5")
    most = ("evaluate", "one", "--feature", "pixels", "--n", "40", "--search", "--min-recall", "0.999")
    assert tells(fails(capsys, *most), "min_recall: no level ... a recall of 0.999; the most is ...")
    model(guided=True)
    assert tells(fails(capsys, "sample", "one", "--guidance", "2", "--guide", "one"), "--guide: ... input ... no guide")
