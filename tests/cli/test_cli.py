"""The command line: what it runs, what it prints, and the exit code and one line for every mistake."""
# ruff: noqa: E501 (messages stand on one line)

import csv
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import tells
from PIL import Image

from lightning_diff.artifacts import checkpoints, ema_snapshots, load_denoiser, read_record, save_denoiser
from lightning_diff.cli import app as cli
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import Stopped, UserError
from lightning_diff.nets import MLP, UNet
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

NET = {"_target_": "lightning_diff.nets.UNet", "shape": [1, 8, 8], "num_classes": 10, "augment_dim": 0, "channels": 8, "channel_mult": [1], "num_blocks": 1, "attention": []}  # fmt: skip
RECIPE = {
    "model": {"_target_": "lightning_diff.DiffusionModule", "net": NET, "num_classes": 10, "sigma_data": 0.75},
    "data": {"_target_": "lightning_diff.data.Digits", "batch_size": 128},
    "callbacks": [],
    "trainer": {"max_steps": 5},
}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    recipe.save(RECIPE, tmp_path / "one.yaml")
    recipe.save(RECIPE, tmp_path / "two.yaml")
    return tmp_path


def network() -> UNet:
    return UNet((1, 8, 8), num_classes=10, channels=8, channel_mult=[1], num_blocks=1, attention=[])


@pytest.fixture
def model(workplace):
    """A run folder with an untrained model, a checkpoint, two averages and snapshots of a third."""
    folder = workplace / "runs" / "one"
    net = network()
    save_denoiser(folder, Denoiser(net, 0.75), NET, shape=(1, 8, 8), num_classes=10, ema="slow", images=640)
    recipe.save(recipe.compose("one.yaml"), folder / "recipe.yaml")
    averages = {name: {key: torch.full_like(p, value) for key, p in net.named_parameters()} for name, value in (("slow", 2.0), ("fast", 3.0))}  # fmt: skip
    state = {
        "state_dict": {f"denoiser.net.{key}": value for key, value in net.state_dict().items()} | {"weighting.x": torch.ones(1)},
        "callbacks": {"lightning_diff.EMA": {"averages": averages}},
        "images_seen": 1280,
        "global_step": 10,
    }  # fmt: skip
    checkpoints.write(
        folder / "checkpoints" / "step_00000010.ckpt", lambda path: torch.save(state, path), step=10, images=1280
    )
    for width in (0.05, 0.1):
        average = {key: torch.full_like(p, 5.0) for key, p in net.named_parameters()}
        ema_snapshots.save_snapshot(folder / "ema", average, images=1000, sigma_rel=width)
    return folder


@pytest.fixture
def trained(monkeypatch):
    """What would be trained, in order."""
    calls: list[tuple[dict, Path]] = []
    monkeypatch.setattr(run, "train", lambda settings, source: calls.append((settings, source)))
    return calls


def fails(capsys, *words: str) -> str:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


def test_several_recipes_train_in_order_with_the_overrides_on_all(workplace, trained):
    assert cli.main(["train", "two.yaml", "seed=3", "one.yaml", "trainer.max_steps=7"]) == 0
    assert [str(source) for _, source in trained] == ["two.yaml", "one.yaml"]
    assert [(s["name"], s["seed"], s["trainer"]["max_steps"]) for s, _ in trained] == [("two", 3, 7), ("one", 3, 7)]


def test_a_mistake_in_the_second_recipe_is_found_before_the_first_trains(workplace, trained, capsys):
    (workplace / "two.yaml").write_text("data: {_target_: lightning_diff.data.Digit}\nmodel: {}\n")
    facts = "two.yaml: data._target_: ... lightning_diff.data.Digit ... lightning_diff.data.Digits"
    assert tells(fails(capsys, "train", "one.yaml", "two.yaml"), facts)
    assert trained == []


def test_two_recipes_must_not_share_a_run_folder(workplace, trained, capsys):
    assert tells(fails(capsys, "train", "one.yaml", "two.yaml", "name=x"), "two.yaml: name: ... one.yaml ... runs/x")
    assert tells(fails(capsys, "train", "seed=3"), "train: ... recipe ... digits_edm")
    assert trained == []


def test_recipes_of_one_command_must_start_the_same_processes(workplace, trained, capsys):
    (workplace / "wide.yaml").write_text((workplace / "two.yaml").read_text() + "  devices: 2\n")
    assert tells(fails(capsys, "train", "one.yaml", "wide.yaml"), "train: ... trainer.devices ... num_nodes")
    assert trained == []


def test_a_dry_run_prints_the_resolved_recipe_and_trains_nothing(workplace, trained, capsys):
    assert cli.main(["train", "--dry-run", "one.yaml", "data.batch_size=64"]) == 0
    out = capsys.readouterr().out
    (workplace / "printed.yaml").write_text(out)
    assert recipe.compose("printed.yaml")["data"]["batch_size"] == 64
    assert "5 steps = 320 images" in out
    assert re.search(r"^# \w+: [\d,]+ (images|examples) of .* (classes|labels)", out, re.M)
    assert trained == []
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UserError("x.yaml: a: is\nwrong"), 2, "error: x.yaml: a: is wrong\n"),
        (Stopped(signal.SIGTERM, "stopped by SIGTERM after saving x"), 75, "stopped by SIGTERM after saving x\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
    ],
)
def test_what_ends_a_run_becomes_an_exit_code_and_one_line(workplace, monkeypatch, capsys, error, code, printed):
    def ends(settings, source):
        raise error

    monkeypatch.setattr(run, "train", ends)
    assert cli.main(["train", "one.yaml"]) == code
    assert capsys.readouterr().err.lstrip("\n") == printed


def test_lightnings_own_exit_after_ctrl_c_is_130(workplace, monkeypatch, capsys):
    def ends(settings, source):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr(run, "train", ends)
    assert cli.main(["train", "one.yaml"]) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_debug_adds_the_traceback_wherever_it_stands(workplace, capsys):
    for words in (["--debug", "train", "no.yaml"], ["train", "no.yaml", "--debug"]):
        assert cli.main(words) == 2
        err = capsys.readouterr().err
        assert err.startswith("Traceback")
        assert tells(err.splitlines()[-1], "error: no.yaml: ... recipe")


def test_a_fault_of_the_program_is_not_dressed_up(workplace, monkeypatch):
    def broken(settings, source):
        raise ZeroDivisionError

    monkeypatch.setattr(run, "train", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", "one.yaml"])


def test_warnings_are_one_line(workplace, monkeypatch):
    printed = []
    monkeypatch.setattr(run, "train", lambda *_: printed.append(warnings.formatwarning("a\nb", UserWarning, "f.py", 3)))
    plain = warnings.formatwarning
    cli.main(["train", "one.yaml"])
    assert printed == ["warning: a b\n"]
    assert warnings.formatwarning is plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "on"], "on: ... one"),
        (["sample", "zzz"], "zzz: ... run ... one"),
        (["sample", "one", "--labels", "3,10"], "--labels: ... 0 to 9 ... 10"),
        (["sample", "one", "--labels", "three"], "--labels: ... all or none ... 'three'"),
        (["sample", "one", "--solver", "huen"], "--solver: ... 'huen' ... heun"),
        (["sample", "one", "--solver", "euler", "--churn", "5"], "--churn: ... heun ... euler"),
        (["sample", "one", "--grid", "karas"], "--grid: ... 'karas' ... karras"),
        (["sample", "one", "--sigma-min", "90"], "--sigma-min, --sigma-max: karras: ... sigma_min=90.0, sigma_max=80.0"),
        (["sample", "one", "--interval", "3", "1"], "--interval: ... 3 1"),
        (["sample", "one", "--labels", "none", "--guidance", "2"], "--guidance: ... --labels ... --guide"),
        (["sample", "one", "--out", "x.jpg"], "--out: x.jpg ... .png ... .npz ... folder"),
        (["sample", "one", "--out", "one.yaml/x.png"], "--out: one.yaml/x.png ... one.yaml is a file"),
        (["sample", "one", "--out", "one.yaml/y/x.png"], "--out: one.yaml/y/x.png ... Not a directory"),
        (["evaluate", "one", "--feature", "clasifier"], "--feature: ... 'clasifier' ... classifier"),
        (["evaluate", "one", "--solver", "huen"], "--solver: ... 'huen' ... heun"),
        (["export", "one", "--ema", "slwo"], "runs/one/checkpoints/step_00000010.ckpt: ... 'slwo' ... slow"),
        (["export", "one", "--ema", "slow", "--sigma-rel", "0.1"], "export: ... name or sigma_rel"),
        (["export", "one", "--images", "100"], "export: images ... sigma_rel"),
        (["export", "one", "--out", "one.yaml/x"], "one.yaml/x/model.safetensors: ... Not a directory"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_line(model, capsys, monkeypatch, words, message):
    monkeypatch.setattr("lightning_diff.runs.sample.generate", lambda *_, **__: pytest.fail("sampled before checking"))
    assert tells(fails(capsys, *words), message)


@pytest.mark.parametrize(
    ("words", "beginning"),
    [
        (["trian"], "No such command 'trian'."),
        (["train"], "Missing argument 'RECIPE... [key=value...]'."),
        (["sample", "one", "--stepz", "3"], "No such option: --stepz"),
        (["sample", "one", "--n", "0"], "Invalid value for '--n' / '-n': "),
    ],
)
def test_typers_own_complaints_are_one_line_too(capsys, words, beginning):
    assert fails(capsys, *words).startswith(beginning)


def test_a_device_that_is_not_there(model, capsys):
    assert fails(capsys, "sample", "one", "--device", "cpux").startswith("--device: cpux")


def test_samples_are_a_grid_a_folder_or_an_npz_of_the_same_images(model, capsys):
    common = ["sample", "runs/one/model.safetensors", "--n", "5", "--steps", "2", "--labels", "7,2", "--seed", "4"]
    assert cli.main([*common, "--out", "out/x.npz"]) == 0
    assert cli.main([*common, "--out", "out/pictures", "--batch", "2"]) == 0
    assert cli.main([*common, "--guidance", "2", "--interval", "0.1", "5", "--churn", "1"]) == 0
    plain, pictures, doubt, guided = capsys.readouterr().out.splitlines()
    assert (plain, pictures) == ("5 samples in out/x.npz", "5 samples in out/pictures")
    assert tells(doubt, "guidance 2: ... condition_dropout")  # its record is of before this was noted
    assert guided == "5 samples in runs/one/samples/heun2_churn1_guidance2_in0.1-5_7,2_seed4.png"
    stored = np.load("out/x.npz")
    assert stored["arr_0"].shape == (5, 8, 8, 1)
    assert stored["arr_1"].tolist() == [7, 2, 7, 2, 7]
    for i in range(5):
        picture = np.asarray(Image.open(f"out/pictures/{i:06d}.png"))
        assert np.abs(picture.astype(int) - stored["arr_0"][i, :, :, 0]).max() <= 1
    with Image.open("runs/one/samples/heun2_churn1_guidance2_in0.1-5_7,2_seed4.png") as grid:
        assert grid.width < grid.height  # two columns of three rows


def test_other_samples_have_other_names(model, capsys):
    """By default; or the second command would overwrite what the first one drew."""
    save_denoiser(model.parent / "worse", Denoiser(network(), 0.75), NET, shape=(1, 8, 8), num_classes=10)
    for words, name in (
        ("", "euler1_seed0"),
        ("--guidance 2", "euler1_guidance2_seed0"),
        ("--guidance 2.5 --guide worse --interval 0.1 5", "euler1_guidance2.5_byworse_in0.1-5_seed0"),
        ("--labels 3,1", "euler1_3,1_seed0"),
        ("--labels none", "euler1_none_seed0"),
        ("--grid log_snr --sigma-min 0.01 --sigma-max 40", "euler1_log_snr_min0.01_max40_seed0"),
        ("--solver heun --churn 3", "heun1_churn3_seed0"),
    ):
        assert cli.main(["sample", "one", "--solver", "euler", "--steps", "1", "--n", "2", *words.split()]) == 0
        assert capsys.readouterr().out.split()[-1] == f"runs/one/samples/{name}.png"


def test_autoguidance_takes_another_run_of_the_same_shape(model, workplace, capsys):
    save_denoiser(workplace / "runs" / "worse", Denoiser(network(), 0.75), NET, shape=(1, 8, 8), num_classes=10)
    common = ["sample", "one", "--n", "2", "--steps", "2", "--guidance", "2"]
    assert cli.main([*common, "--guide", "worse", "--out", "x.png"]) == 0
    capsys.readouterr()
    points = {"_target_": "lightning_diff.nets.MLP", "shape": [2]}
    save_denoiser(workplace / "runs" / "points", Denoiser(MLP((2,))), points, shape=(2,))
    assert tells(fails(capsys, *common, "--guide", "points"), "--guide: points ... shape ... one")
    assert tells(fails(capsys, "sample", "points", "--out", "x.png"), "--out: ... [2] ... .npz")
    assert tells(fails(capsys, "sample", "points", "--labels", "1"), "--labels: ... no classes")
    assert cli.main(["sample", "points", "--n", "3", "--steps", "2"]) == 0
    assert np.load("runs/points/samples/heun2_seed0.npz")["arr_0"].shape == (3, 2)


def test_evaluate_prints_a_table_and_appends_it_with_its_protocol(model, capsys):
    (model / "metrics.csv").unlink(missing_ok=True)
    assert cli.main(["evaluate", "one", "--feature", "pixels", "--n", "80", "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "frechet_pixels" in out
    assert "n 80, seed 0, heun, 2 steps, 3 evaluations each, weights slow, reference " in out
    with (model / "metrics.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    row = rows["frechet_pixels"]
    assert [row[key] for key in ("step", "images", "n", "seed", "solver", "steps", "nfe", "ema")] == ["5", "640", "80", "0", "heun", "2", "3", "slow"]  # fmt: skip
    assert float(row["value"]) > float(rows["frechet_pixels_floor"]["value"])


def test_evaluate_needs_the_runs_own_recipe_and_data(model, capsys):
    (model / "recipe.yaml").write_text("data: {_target_: lightning_diff.data.Digits, batch_size: 8, size: 16}\n")
    facts = f"{model.relative_to(Path.cwd())}: ... [1, 8, 8] with 10 ... [1, 16, 16] with 10"
    assert tells(fails(capsys, "evaluate", "one"), facts)
    (model / "recipe.yaml").unlink()
    assert tells(fails(capsys, "evaluate", "one"), "runs/one/recipe.yaml: no such file")


@pytest.mark.parametrize(
    ("words", "name", "value", "images"),
    [
        ([], "slow", 2.0, 1280),
        (["--ema", "fast"], "fast", 3.0, 1280),
        (["--ema", "none"], "none", None, 1280),
        (["--sigma-rel", "0.07"], "sigma_rel=0.07", 5.0, 1000),
    ],
)
def test_export_writes_the_average_that_was_asked_for(model, workplace, words, name, value, images):
    assert cli.main(["export", "one", "--out", "exported", *words]) == 0
    record = read_record("exported")
    assert (record.ema, record.images, record.net, record.sigma_data) == (name, images, NET, 0.75)
    net = load_denoiser("exported").net
    if value is None:
        raw = torch.load(model / "checkpoints" / "step_00000010.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(p, raw[f"denoiser.net.{key}"]) for key, p in net.state_dict().items())
    else:
        assert all(torch.allclose(p, torch.full_like(p, value)) for p in net.parameters())


def test_export_without_a_checkpoint_or_with_another_networks(model, capsys):
    text = (model / "recipe.yaml").read_text()
    (model / "recipe.yaml").write_text(text.replace("channels: 8", "channels: 16"))
    facts = "runs/one/checkpoints/step_00000010.ckpt: ... another network"
    assert tells(fails(capsys, "export", "one"), facts)
    for path in (model / "checkpoints").iterdir():
        path.unlink()
    assert tells(fails(capsys, "export", "one"), "runs/one/checkpoints: ... checkpoint")


def test_the_three_ways_to_start_it_are_one_and_help_imports_no_torch(workplace):
    code = (
        "import sys; from lightning_diff.cli import main; main(['train', '--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    repository = Path(__file__).parents[2]
    for command in ([repository / "train.py", "no.yaml"], ["-m", "lightning_diff", "train", "no.yaml"]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert tells(done.stderr, "error: no.yaml: ... recipe")
