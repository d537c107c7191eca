"""The table of losses per noise level: the closed form where there is one, and the same however the run was cut."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_diff.data import Data, ImageSet
from lightning_diff.errors import Stopped
from lightning_diff.noise import log_snr_to_sigma
from lightning_diff.oracle import Gaussian
from lightning_diff.statistics import merge

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
