"""Figures in metrics.csv: each with its protocol, beside the floor that real data have."""

from pathlib import Path

import pytest

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.foundation.errors import UserError

CALLBACKS = (
    "callbacks=[{_target_: lightning_diff.callbacks.EMA},"
    " {_target_: lightning_diff.callbacks.Evaluate, steps: 4, feature: pixels, %s}]"
)
PROTOCOL = ("n", "seed", "solver", "steps", "nfe", "ema", "reference")


def figures(folder) -> list[dict[str, str]]:
    return [row for row in read(folder / "metrics.csv") if row["n"]]


def test_every_figure_has_its_protocol_and_floor(train):
    rows = figures(train("run", CALLBACKS % "every: 48, n: 24, seed: 7, solver: euler"))
    assert sorted({int(row["images"]) for row in rows}) == [48, 96, 128]
    assert all(int(row["images"]) == 16 * int(row["step"]) for row in rows)
    measured = [row for row in rows if not row["metric"].endswith("_floor")]
    floors = [row for row in rows if row["metric"].endswith("_floor")]
    assert {"frechet_pixels", "kernel_pixels", "precision_pixels", "recall_pixels", "memorisation"} <= {
        row["metric"] for row in measured
    }
    assert {row["metric"] for row in floors} == {f"{row['metric']}_floor" for row in measured}
    (reference,) = {row["reference"] for row in rows}
    assert reference
    for row in measured:
        assert [row[name] for name in PROTOCOL[:-1]] == ["24", "7", "euler", "4", "4", "ema"]
    for row in floors:
        assert [row[name] for name in PROTOCOL[:-1]] == ["24", "", "", "", "", ""]
    assert all(float(row["value"]) == float(row["value"]) for row in rows)


def test_floors_do_not_change_and_measuring_changes_no_training(train):
    with_figures = train("with", CALLBACKS % "every: 48")
    floors = {}
    for row in figures(with_figures):
        if row["metric"].endswith("_floor"):
            floors.setdefault(row["metric"], set()).add(row["value"])
    assert floors
    assert all(len(values) == 1 for values in floors.values())
    without = train("without", "callbacks=[{_target_: lightning_diff.callbacks.EMA}]")
    losses = [
        [row["value"] for row in read(folder / "metrics.csv") if row["metric"] == "train/loss"]
        for folder in (with_figures, without)
    ]
    assert losses[0] == losses[1]


def test_too_few_samples_for_a_covariance_are_refused_before_training(train):
    with pytest.raises(UserError, match=r"Evaluate: 2 samples .*pixels.*\bn\b.* 3"):
        train("few", CALLBACKS % "n: 2")
    assert not Path("runs/few/metrics.csv").exists()
