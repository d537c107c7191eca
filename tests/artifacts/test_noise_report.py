"""The tables of noise levels: what is written is read, what is unknown stays unknown, and the suggestion is a fixed point."""

import json
import math

import numpy as np
import pytest
import torch
from noise_reports import LEVELS, SIGMA_DATA, report

from lightning_diff.artifacts import noise_levels, noise_levels_figure
from lightning_diff.foundation.errors import UserError
from lightning_diff.noise import LogNormal, log_snr_to_sigma


def test_what_is_written_is_read_and_empty_bins_have_empty_cells(tmp_path):
    whole = report(gradient=torch.rand_like(LEVELS))
    whole.write_tables(tmp_path / "run")
    again = noise_levels.read(tmp_path / "run")
    assert again.images == whole.images
    assert again.name == "run"
    assert again.sigma_data == pytest.approx(SIGMA_DATA, rel=1e-5)
    for name, column in whole.columns.items():
        np.testing.assert_allclose(again.columns[name], column, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(again.history, whole.history, rtol=1e-5, atol=1e-12)
    assert bool((whole.columns["count"] == 0).any())
    text = (tmp_path / "run" / "noise_levels.csv").read_text()
    assert "nan" not in text
    assert text.splitlines()[1].startswith("-10,")
    assert text.splitlines()[1].endswith(",0,,,,,0,,,,")


def test_effective_weight_is_a_density_and_gradient_shares_sum_to_one():
    columns = report(weight=1 / (1 + 0.05 * LEVELS**2), gradient=LEVELS.exp()).columns
    known = columns["count"] > 0
    assert np.nansum(columns["effective_weight"]) * 0.25 == pytest.approx(1)
    assert np.nansum(columns["gradient_share"]) == pytest.approx(1)
    ratio = columns["gradient_share"] / (columns["count"] * columns["gradient_norm"] ** 2)
    np.testing.assert_allclose(ratio[known], ratio[known][0])
    np.testing.assert_allclose(columns["gradient_norm"][known], (columns["weight"] * np.exp(LEVELS.numpy() / 2))[known])


def test_equal_losses_suggest_the_law_that_is_used():
    suggestion = report(law=LogNormal(-0.7, 0.9)).suggestion()
    assert suggestion is not None
    assert suggestion.P_mean == pytest.approx(-0.7, abs=0.005)
    assert suggestion.P_std == pytest.approx(0.9, abs=0.005)


def test_the_suggestion_is_the_product_of_law_weight_and_root_second_moment(tmp_path):
    # In y = ln sigma: N(-1, 1.1^2), times a Gaussian weight of mean 0 and std 2, times exp(0.3 y): again a Gaussian.
    y = log_snr_to_sigma(LEVELS, SIGMA_DATA).log()
    tilted = report(mean=(0.3 * y).exp(), weight=(-(y**2) / (2 * 2**2)).exp())
    precision = 1 / 1.1**2 + 1 / 2**2
    suggestion = tilted.suggestion()
    assert suggestion is not None
    assert suggestion.P_mean == pytest.approx((-1 / 1.1**2 + 0.3) / precision, abs=0.005)
    assert suggestion.P_std == pytest.approx(precision**-0.5, abs=0.005)
    tilted.write_tables(tmp_path)
    stored = json.loads((tmp_path / "noise_levels.json").read_text())
    assert stored["images"] == [500, 1000]
    assert stored["suggestion"]["P_mean"] == pytest.approx(suggestion.P_mean, abs=1e-4)
    assert f"P_mean {suggestion.P_mean:.2f}, P_std {suggestion.P_std:.2f}" in tilted.sentence()


def test_without_weights_nothing_is_suggested(tmp_path):
    silent = report(weight=torch.full_like(LEVELS, torch.nan))
    assert silent.suggestion() is None
    silent.write_tables(tmp_path)
    assert json.loads((tmp_path / "noise_levels.json").read_text())["suggestion"] is None


def test_the_variance_spread_leaves_out_bins_of_few_samples():
    common = torch.from_numpy(report().columns["count"] >= 0.01 * 1e6)
    mean = torch.where(common, torch.where(LEVELS > 1, 2.0, 1.0), 100.0)
    assert report(mean=mean).variance_spread() == pytest.approx(4)


def test_a_curve_has_gaps_where_nothing_was_seen_and_error_bars_elsewhere():
    figure = noise_levels_figure.draw(report())
    axes = figure.axes[0]
    y = np.asarray(axes.containers[0].lines[0].get_ydata())
    assert bool((np.isnan(y) == (report().columns["count"] == 0)).all())
    assert axes.containers[0].has_yerr
    assert [axes.get_title() != "" for axes in figure.axes[:4]] == [True] * 4
    assert math.isclose(figure.axes[0].get_xlim()[0], report().span[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "NoiseLevels"),
        ("log_snr,count\n1,2\n", "log_snr, sigma, count"),
        (",".join(noise_levels.COLUMNS) + "\n" + "x," * 11 + "x\n", "damaged"),
        (",".join(noise_levels.COLUMNS) + "\n" + "1\n", "damaged"),
        (",".join(noise_levels.COLUMNS) + "\n", "holds no noise levels"),
    ],
)
def test_a_missing_or_damaged_table_is_named(tmp_path, text, words):
    if text is not None:
        (tmp_path / "noise_levels.csv").write_text(text)
    with pytest.raises(UserError, match=words) as error:
        noise_levels.read(tmp_path)
    assert "noise_levels.csv" in str(error.value)


def test_few_losses_suggest_nothing():
    assert report(n=2000).suggestion() is not None
    assert report(n=160).suggestion() is None
    assert "too little" in report(n=160).sentence()
