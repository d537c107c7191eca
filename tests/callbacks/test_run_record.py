"""What a run leaves behind says what happened: losses, the averaged model, and a recipe that makes the run again."""

import shutil

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lightning_diff import load_denoiser
from lightning_diff.artifacts import checkpoints, read_record
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.foundation.errors import Stopped
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

EMA = "callbacks=[{_target_: lightning_diff.callbacks.EMA}]"
WEIGHTED = "model.weighting={_target_: test_run_record.ByLevel}"


class ByLevel(nn.Module):
    """Weights that are no constant."""

    def forward(self, log_snr, loss):
        return (log_snr / 4).exp()


class Logs(Callback):
    """Logs as Lightning's users do: rows that are written after all callbacks have ended the step, the checkpoint's too."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.log("mine", outputs["loss"].detach())


class Faulty(nn.Module):
    """A network whose output is NaN in some of the batches it sees."""

    def __init__(self, at):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.calls, self.at = 0, at

    def forward(self, x, c_noise, label=None):
        self.calls += 1
        return x * self.weight + (torch.nan if self.calls in self.at else 0.0)


def logged(folder, metric):
    return {int(row["step"]): float(row["value"]) for row in read(folder / "metrics.csv") if row["metric"] == metric}


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("metric", ["train/loss", "train/unweighted_loss"])
def test_the_logged_loss_is_the_mean_over_steps_and_micro_batches(train, metric, accumulation):
    each = logged(train("each", WEIGHTED), metric)
    options = [f"trainer.accumulate_grad_batches={accumulation}", "trainer.log_every_n_steps=3"]
    some = logged(train("some", WEIGHTED, *options), metric)
    assert list(each) == list(range(1, 9))
    means = {3: sum(each[i] for i in (1, 2, 3)) / 3, 6: sum(each[i] for i in (4, 5, 6)) / 3, 8: (each[7] + each[8]) / 2}
    assert some == pytest.approx(means, rel=1e-5)  # the last window is shorter, and logged all the same


def test_weighted_and_unweighted_loss_differ_and_rows_count_images(train):
    folder = train("run", WEIGHTED)
    assert logged(folder, "train/loss")[8] != pytest.approx(logged(folder, "train/unweighted_loss")[8], rel=1e-3)
    assert all(int(row["images"]) == 16 * int(row["step"]) for row in read(folder / "metrics.csv"))


def test_the_model_holds_the_averaged_weights(train, state):
    folder = train("run", EMA)
    checkpoint, net = state(folder), load_denoiser(folder).net
    averages = checkpoint["callbacks"]["lightning_diff.EMA"]["averages"]["ema"]
    assert averages.keys() == dict(net.named_parameters()).keys()
    assert all(torch.equal(weight, averages[name]) for name, weight in net.named_parameters())
    assert any(
        not torch.equal(weight, checkpoint["state_dict"][f"denoiser.net.{name}"])
        for name, weight in net.named_parameters()
    )
    assert (read_record(folder).ema, read_record(folder).images) == ("ema", 128)


def test_without_averages_the_model_holds_the_last_weights(train, state):
    folder = train("run")
    last = state(folder)["state_dict"]
    net = load_denoiser(folder).net
    assert all(torch.equal(value, last[f"denoiser.net.{name}"]) for name, value in net.state_dict().items())
    assert read_record(folder).ema == "none"


def test_the_recipe_in_the_run_folder_alone_makes_the_run_again(train, state, tmp_path, monkeypatch):
    folder = train("run", EMA, WEIGHTED, "model.condition_dropout=0.2", "data.batch_size=8", "trainer.max_steps=5")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / "recipe.yaml", elsewhere / "recipe.yaml")
    first = state(folder)
    monkeypatch.chdir(elsewhere)
    run.train(recipe.load("recipe.yaml"), "recipe.yaml")
    again = torch.load(checkpoints.newest(elsewhere / "runs" / "run" / "checkpoints"), weights_only=True)
    assert first["global_step"] == again["global_step"] == 5
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in first["state_dict"].items())


def test_resuming_drops_rows_that_lie_ahead_of_the_checkpoint(train):
    folder = train("run", "trainer.max_steps=4")
    with (folder / "metrics.csv").open("a") as file:
        file.write("6,96,train/loss,123,,,,,,,\n7,112,train/lo")
    folder = train("run")
    losses = logged(folder, "train/loss")
    assert list(losses) == list(range(1, 9))
    assert losses == logged(train("whole"), "train/loss")


@pytest.mark.whole
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stop", [4, 6])  # in the middle of a window; at a step that is logged
def test_rows_are_the_same_when_a_run_was_interrupted(train, stop, accumulation):
    options = ["trainer.log_every_n_steps=3", f"trainer.accumulate_grad_batches={accumulation}"]
    mine = "{_target_: test_run_record.Logs}"
    folder = train("whole", *options, f"callbacks=[{mine}]")
    interrupt = f"{{_target_: interrupting.Interrupt, batch: {(stop - 1) * accumulation}}}"
    with pytest.raises(Stopped, match=f"step_{stop:08d}"):
        train("parts", *options, f"callbacks=[{mine}, {interrupt}]")
    resumed = train("parts", *options, f"callbacks=[{mine}]")
    whole, parts = (
        [row for row in read(path / "metrics.csv") if row["metric"] != "images_per_second"]
        for path in (folder, resumed)
    )
    assert whole == parts
    assert {row["metric"] for row in whole} >= {"mine", "train/loss"}


def test_saving_at_every_step_changes_nothing(train, state):
    """When a checkpoint is due by the clock depends on the machine."""
    callbacks = "{_target_: lightning_diff.callbacks.EMA}, {_target_: lightning_diff.callbacks.NoiseLevels}"
    learners = [
        "model.weighting={_target_: lightning_diff.weighting.MeasuredVariance}",
        "model.noise={_target_: lightning_diff.noise.AdaptiveNoise, base: {_target_: lightning_diff.noise.LogNormal}, "
        "refresh: 3, warmup: 20}",
        "trainer.log_every_n_steps=3",
    ]
    folders = [
        train(name, *learners, f"callbacks=[{callbacks}, {{_target_: lightning_diff.callbacks.Checkpoint, {when}}}]")
        for name, when in (("often", "every_images: 16, every_minutes: null"), ("once", "every_minutes: null"))
    ]
    for name in ("model.safetensors", "noise_levels.csv", "noise_levels_history.csv"):
        one, other = ((folder / name).read_bytes() for folder in folders)
        assert one == other, name
    often, once = map(state, folders)
    assert all(
        torch.equal(value, once["state_dict"][name])
        for name, value in often["state_dict"].items()
        if "extra" not in name
    )
    assert logged(folders[0], "train/loss") == logged(folders[1], "train/loss")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_steps_that_the_guard_skips_are_left_out_of_the_mean(train, accumulation):
    """With one half of step 2 lost, both are: the optimiser saw neither. Of steps 4 to 6 nothing is left to log."""
    skip = "callbacks=[{_target_: lightning_diff.callbacks.FiniteGuard, policy: skip}]"
    bad = [2 * accumulation, *range(3 * accumulation + 1, 6 * accumulation + 1)]
    lost = f"model.net={{_target_: test_run_record.Faulty, at: {bad}}}"
    options = [skip, f"trainer.accumulate_grad_batches={accumulation}"]
    each = logged(train("each", lost, *options), "train/loss")
    assert list(each) == [1, 3, 7, 8]
    folder = train("some", lost, *options, "trainer.log_every_n_steps=3")
    assert logged(folder, "train/loss") == pytest.approx(
        {3: (each[1] + each[3]) / 2, 8: (each[7] + each[8]) / 2}, rel=1e-7
    )
    assert list(logged(folder, "train/learning_rate")) == [3, 6, 8]
