"""The table of losses per noise level: the closed form where there is one, and the same however the run was cut."""

import csv
from pathlib import Path

import forked
import pytest
import torch
from torch import nn

from lightning_diff.data import Data, ImageSet
from lightning_diff.foundation.errors import Stopped, UserError
from lightning_diff.noise import log_snr_to_sigma
from lightning_diff.oracle import Gaussian
from lightning_diff.statistics import merge
from lightning_diff.weighting import MinSNR

VARIANCES = torch.tensor([0.05, 0.25, 1.0], dtype=torch.float64)
SIGMA_DATA = 0.5


class Normal(Data):
    """Draws of a Gaussian."""

    def load(self):
        return ImageSet(
            Gaussian(torch.zeros(3), VARIANCES.clone()).sample(32768, torch.Generator().manual_seed(0))
        ), None


class Exact(nn.Module):
    """The network of that Gaussian's exact denoiser; its one parameter changes nothing."""

    def __init__(self):
        super().__init__()
        self.net = Gaussian(torch.zeros(3), VARIANCES.clone()).denoiser(SIGMA_DATA).net
        self.idle = nn.Parameter(torch.zeros(()))

    def forward(self, x, c_noise, label=None):
        return self.net(x, c_noise) + 0 * self.idle


class Constant(nn.Module):
    """F = b: the gradient of the loss is 2 (b - target) / 3, and targets of this data have variance one at every level."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(3))

    def forward(self, x, c_noise, label=None):
        return self.b.expand_as(x)


class White(Normal):
    """Draws of N(0, sigma_data^2)."""

    def load(self):
        return ImageSet(SIGMA_DATA * torch.randn(32768, 3, generator=torch.Generator().manual_seed(0))), None


class Restless(nn.Module):
    """Everything that a forward pass can change: running statistics, and the generator."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x, c_noise, label=None):
        return self.layers(x) + 0.01 * torch.rand(())


def closed_form(low: float, high: float) -> tuple[float, float, float]:
    """Mean, variance and fourth central moment of the exact denoiser's loss over a bin in which log-SNR is uniform."""
    sigma = log_snr_to_sigma(torch.linspace(low, high, 2001, dtype=torch.float64), SIGMA_DATA)
    mean, variance = Gaussian(torch.zeros(3), VARIANCES.clone()).denoising_loss(sigma, SIGMA_DATA)
    total = float(variance.mean() + mean.var(correction=0))
    a = VARIANCES * (sigma[:, None] ** 2 + SIGMA_DATA**2) / (SIGMA_DATA**2 * (VARIANCES + sigma[:, None] ** 2)) / 3
    return float(mean.mean()), total, float((48 * (a**4).sum(1)).mean()) + 3 * total**2


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "noise_levels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def windows(state: dict) -> tuple[list[int], torch.Tensor]:
    (own,) = (part for name, part in state["callbacks"].items() if name.startswith("NoiseLevels"))
    return own["images"], own["moments"]


def merged(moments: torch.Tensor) -> tuple[torch.Tensor, ...]:
    total = tuple(moments[0])
    for window in moments[1:]:
        total = merge(total, tuple(window))
    return total


EXACT = """
seed: 3
model: {_target_: lightning_diff.DiffusionModule, net: {_target_: test_noise_levels.Exact}}
data: {_target_: test_noise_levels.Normal, batch_size: 64}
callbacks: [{_target_: lightning_diff.callbacks.NoiseLevels, windows: 3}]
trainer: {accelerator: cpu, max_steps: 40}
"""
FILES = ("noise_levels.csv", "noise_levels_history.csv", "noise_levels.json")


@pytest.mark.draws
def test_mean_and_variance_of_an_exact_denoiser_are_the_closed_form_and_empty_bins_stay_empty(train):
    low, high = (float(x) for x in log_snr_to_sigma(torch.tensor([6.0, -6.0]), SIGMA_DATA))
    folder = train(
        "exact",
        "model.net={_target_: test_noise_levels.Exact}",
        f"model.sigma_data={SIGMA_DATA}",
        f"model.noise={{_target_: lightning_diff.noise.LogUniform, low: {low}, high: {high}}}",
        "data={_target_: test_noise_levels.Normal, batch_size: 2048}",
        "trainer.max_steps=16",
        "callbacks=[{_target_: lightning_diff.callbacks.NoiseLevels, bins: 32, low: -8, high: 8, windows: 2}]",
    )
    inside, close = 0, 0
    for row in rows(folder):
        centre, count = float(row["log_snr"]), float(row["count"])
        if abs(centre) > 6:
            assert count == 0
            assert [row[name] for name in ("mean", "standard_error", "variance", "coefficient_of_variation")] == [
                ""
            ] * 4
            continue
        mean, variance, fourth = closed_form(centre - 0.25, centre + 0.25)
        inside += 2
        close += abs(float(row["mean"]) - mean) < 3 * (variance / count) ** 0.5
        close += abs(float(row["variance"]) - variance) < 3 * ((fourth - variance**2) / count) ** 0.5
        assert float(row["standard_error"]) == pytest.approx((float(row["variance"]) / count) ** 0.5, rel=1e-4)
    assert inside == 48
    assert close >= 0.95 * inside
    assert sum(float(row["count"]) for row in rows(folder)) == 8 * 2048  # of the last half: one of two windows
    assert (folder / "noise_levels.png").read_bytes().startswith(b"\x89PNG")


def test_merging_windows_keeps_every_loss(train, state):
    levels = "callbacks=[{_target_: lightning_diff.callbacks.NoiseLevels, windows: %d}]"
    fine_images, fine = windows(state(train("fine", levels % 100, "trainer.max_steps=12")))
    train("coarse", levels % 3, "trainer.max_steps=6")
    images, coarse = windows(state(train("coarse", levels % 3, "trainer.max_steps=12")))
    assert fine_images == list(range(16, 193, 16))
    assert images == [64, 128, 192]  # windows of 2, 2, 2, 2 steps have merged in pairs; then one of 4 came
    for whole, parts in zip(merged(coarse), merged(fine), strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)
    for window, steps in zip(coarse, (slice(0, 4), slice(4, 8), slice(8, 12)), strict=True):
        torch.testing.assert_close(tuple(window), merged(fine[steps]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_resumed_within_a_window_has_the_table_of_one_that_was_not(train, state, accumulation):
    levels = "{_target_: lightning_diff.callbacks.NoiseLevels, windows: 2}"
    accumulated = f"trainer.accumulate_grad_batches={accumulation}"
    whole = train("whole", f"callbacks=[{levels}]")
    interrupt = f"{{_target_: interrupting.Interrupt, batch: {5 * accumulation}}}"
    with pytest.raises(Stopped):
        train("parts", f"callbacks=[{levels}, {interrupt}]", accumulated)
    parts = train("parts", f"callbacks=[{levels}]", accumulated)
    (images, moments), (expected_images, expected) = windows(state(parts)), windows(state(whole))
    assert images == expected_images == [64, 128]
    torch.testing.assert_close(moments, expected, rtol=1e-5 if accumulation > 1 else 1e-12, atol=1e-12)
    assert [row["count"] for row in rows(parts)] == [row["count"] for row in rows(whole)]


@pytest.mark.whole
def test_the_files_are_the_same_bytes_on_two_processes_accumulated_or_interrupted(train, state, tmp_path):
    """For losses that are the same bits: each is reduced in order of position, not of arrival."""
    exact = [line.replace(": ", "=", 1) for line in EXACT.strip().splitlines()[:-1]]
    whole = train("whole", *exact, "trainer.max_steps=40")
    accumulated = train("accumulated", *exact, "trainer.max_steps=40", "trainer.accumulate_grad_batches=4")
    callbacks = exact[-1].replace("}]", "}, {_target_: interrupting.Interrupt, batch: 37}]")
    with pytest.raises(Stopped):
        train("parts", *exact[:-1], callbacks, "trainer.max_steps=40")
    parts = train("parts", *exact, "trainer.max_steps=40")
    (tmp_path / "two.yaml").write_text(EXACT)
    (tmp_path / "test_noise_levels.py").write_text(Path(__file__).read_text())
    forked.run_two("train", "two.yaml", "trainer.devices=2", cwd=tmp_path)
    for file in FILES:
        expected = (whole / file).read_bytes()
        assert len(expected) > 50
        for other in (accumulated, parts, Path("runs/two")):
            assert (other / file).read_bytes() == expected, (file, other)
    for other in (accumulated, parts, Path("runs/two")):  # to the last bit, of which the files show six digits
        assert torch.equal(windows(state(other))[1], windows(state(whole))[1]), other


def test_measuring_gradients_changes_nothing_that_trains(train, state):
    levels = "callbacks=[{_target_: lightning_diff.callbacks.NoiseLevels, gradient_every: %d}]"
    restless = ("model.net={_target_: test_noise_levels.Restless}", "trainer.gradient_clip_val=1.0")
    without = train("without", levels % 0, *restless)
    generator = torch.get_rng_state()
    measured = train("measured", levels % 16, *restless)
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in state(without)["state_dict"].items():
        assert torch.equal(value, state(measured)["state_dict"][name]), name
    assert {row["gradient_norm"] for row in rows(without)} == {""}
    assert {row["gradient_norm"] for row in rows(measured)} > {""}
    assert [row["mean"] for row in rows(without)] == [row["mean"] for row in rows(measured)]


def test_the_gradient_norm_of_a_linear_model_is_the_closed_form_and_follows_the_weight(train):
    folder = train(
        "linear",
        "model.net={_target_: test_noise_levels.Constant}",
        "model.weighting={_target_: lightning_diff.weighting.LogSNRBell}",
        "model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.0}",
        f"model.sigma_data={SIGMA_DATA}",
        "data={_target_: test_noise_levels.White, batch_size: 64}",
        "trainer.max_steps=320",
        "callbacks=[{_target_: lightning_diff.callbacks.NoiseLevels, gradient_every: 64, windows: 2}]",
    )
    measured = [row for row in rows(folder) if row["gradient_norm"]]
    assert len(measured) > 15
    squares = torch.tensor([(float(row["gradient_norm"]) / float(row["weight"])) ** 2 for row in measured])
    assert float(squares.mean()) == pytest.approx(4 / 3, rel=0.15)  # E |2 target / 3|^2 = 4/9 * 3
    assert bool(((squares > 0.5 * 4 / 3) & (squares < 2 * 4 / 3)).all())
    assert sum(float(row["gradient_share"]) for row in measured) == pytest.approx(1, abs=1e-4)


def test_the_weight_in_the_table_is_the_one_that_multiplied_the_loss(train):
    min_snr = "model.weighting={_target_: lightning_diff.weighting.MinSNR}"
    levels = "callbacks=[{_target_: lightning_diff.callbacks.NoiseLevels, bins: 400}]"
    seen = [row for row in rows(train("weighted", min_snr, levels, "data.batch_size=256")) if row["count"] != "0"]
    levels, weights = (torch.tensor([float(row[name]) for row in seen]) for name in ("log_snr", "weight"))
    torch.testing.assert_close(weights, MinSNR()(levels, torch.ones_like(levels)), rtol=0.026, atol=0)


def test_tensorboard_gets_coarse_bins_and_the_picture_but_metrics_csv_does_not(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    levels = "callbacks=[{_target_: lightning_diff.callbacks.NoiseLevels, windows: 4}]"
    folder = train("board", levels, "trainer.logger=tensorboard")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["noise_levels"]
    drawn = [name for name in events.Tags()["scalars"] if name.startswith("noise_levels/loss/")]
    assert 3 <= len(drawn) <= 10  # empty bins have no curve
    assert "noise_levels" not in (folder / "metrics.csv").read_text()


@pytest.mark.parametrize("wrong", ["windows=1", "bins=1", "gradient_every=-1"])
def test_impossible_arguments_are_refused_by_name(train, wrong):
    name, value = wrong.split("=")
    with pytest.raises(UserError, match=name):
        train("wrong", f"callbacks=[{{_target_: lightning_diff.callbacks.NoiseLevels, {name}: {value}}}]")
