"""Tangents in the tables, and the alarm: it names the step and the level of a spike, and stays silent without one."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer

from lightning_diff.artifacts import noise_levels, noise_levels_figure, noise_levels_measured
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.callbacks import Tangents
from lightning_diff.foundation.errors import UserError
from lightning_diff.learning_rate import Constant
from lightning_diff.modules.base import CountedModule
from lightning_diff.noise import sigma_to_log_snr
from lightning_diff.noise.moments import NoiseLevelMoments

STUDENT = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 64}"
WATCHED = "callbacks=[{_target_: lightning_diff.callbacks.Tangents}, {_target_: lightning_diff.callbacks.NoiseLevels, windows: 4}]"


class Logged(Trainer):
    """A trainer that keeps what is logged, and whose steps are counted by hand."""

    global_step, global_rank, world_size, max_steps, is_global_zero, loggers = 0, 0, 1, 10_000, True, ()
    datamodule, default_root_dir = LightningDataModule(), "nowhere"  # some other, no run

    def __init__(self, every):
        self.log_every_n_steps, self.values, self.callbacks = every, [], []
        self.loggers = [SimpleNamespace(log_metrics=lambda values, step: self.values.append((step, values)))]


def watched(callback, norms, levels, every=50, at=0):
    """Feed norms (steps, samples) to the callback."""
    trainer, module = Logged(every), CountedModule(optimizer=torch.optim.SGD, learning_rate=Constant())
    trainer.global_step = at
    callback.on_train_start(trainer, module)
    for norm in norms:
        trainer.global_step += 1
        details = {"tangent_norm": norm, "dF_dt": 2 * norm, "warmup": torch.full_like(norm, 0.25)}
        callback.on_train_batch_end(
            trainer, module, {"log_snr": levels, "details": details}, None, trainer.global_step - 1
        )
    return trainer


def test_a_spike_is_named_by_step_and_level(capsys):
    torch.manual_seed(0)
    levels = torch.linspace(-8, 8, 32)
    norms = (levels / 2).exp() * (0.5 * torch.randn(200, 32)).exp()  # of another size at each level
    norms[170, 5] *= 80
    watched(Tangents(), norms, levels)
    level = float(levels[5])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"step 171: a tangent of norm {float(norms[170, 5]):.3g} at log-SNR {level:.2f} ")
    assert f"(t = {math.atan(math.exp(-level / 2)):.3f}), " in line
    ratio = float(line.split(", ")[1].split()[0])
    assert ratio == pytest.approx(float(norms[170, 5]) / math.exp(level / 2), rel=0.3)


def test_without_a_spike_it_is_silent_and_at_the_start_it_only_learns(capsys):
    torch.manual_seed(0)
    levels = torch.linspace(-8, 8, 32)
    norms = (0.5 * torch.randn(300, 32)).exp()
    norms[:20] *= 1000  # the first steps of a training
    callback = Tangents()
    watched(callback, norms, levels)
    assert capsys.readouterr().out == ""
    assert callback.spikes == 0


def test_windows_are_logged_with_their_means_and_largest():
    torch.manual_seed(0)
    norms, levels = torch.rand(100, 8), torch.zeros(8)
    trainer = watched(Tangents(), norms, levels, every=25)
    assert [step for step, _ in trainer.values] == [25, 50, 75, 100]
    _, values = trainer.values[1]
    window = norms[25:50]
    assert values["train/tangent_norm"] == pytest.approx(float(window.mean()))
    assert values["train/dF_dt"] == pytest.approx(2 * float(window.mean()))
    assert values["train/tangent_norm_max"] == pytest.approx(float(window.max()))
    assert values["train/warmup"] == 0.25


def test_an_interruption_in_the_middle_of_a_window_changes_nothing(capsys):
    torch.manual_seed(0)
    levels, norms = torch.linspace(-8, 8, 32), (0.5 * torch.randn(200, 32)).exp()
    norms[150, 5] *= 80
    expected = watched(Tangents(), norms, levels)
    first, second = Tangents(), Tangents()
    before = watched(first, norms[:160], levels)
    second.load_state_dict(first.state_dict())
    after = watched(second, norms[160:], levels, at=160)
    assert before.values + after.values == expected.values
    one, other = capsys.readouterr().out.splitlines()
    assert one == other


def test_a_run_has_them_in_its_tables_and_goes_on_with_them(train):
    train("teacher")
    options = [STUDENT, WATCHED, "trainer.log_every_n_steps=3"]
    whole = train("whole", *options)
    train("parts", *options, "trainer.max_steps=3")
    parts = train("parts", *options)
    rows = [
        {
            (row["metric"], row["step"]): row["value"]
            for row in read(folder / "metrics.csv")
            if "tangent" in row["metric"]
        }
        for folder in (whole, parts)
    ]
    assert {metric for metric, _ in rows[0]} == {"train/tangent_norm", "train/tangent_norm_max"}
    assert rows[0] == rows[1]
    reports = [noise_levels.read(folder) for folder in (whole, parts)]
    for name in ("tangent_norm", "dF_dt", "warmup"):
        one, other = (report.details[name] for report in reports)
        np.testing.assert_allclose(one, other, rtol=1e-7)
    report = reports[0]
    share = report.details["warmup"]
    assert float(share[np.isfinite(share)].min()) >= 0.75  # the last quarter of 8 steps of 16 images, 64 of warm-up
    count = report.columns["count"]
    assert float((np.nan_to_num(report.details["tangent_norm"]) * count).sum()) > 0


def test_the_report_shows_details_over_the_angle():
    sigma = torch.logspace(-2, 2, 20, dtype=torch.float64)
    levels = sigma_to_log_snr(sigma, 0.6).flip(0)
    ones = torch.ones(20, dtype=torch.float64)
    moments = NoiseLevelMoments(50 * ones, ones, ones)
    nan = torch.full_like(ones, torch.nan)
    details = {"tangent_norm": 3 * ones, "dF_dt": 4 * ones, "warmup": 0.5 * ones}
    history = torch.stack([torch.stack(moments)])
    report = noise_levels_measured.report("run", levels, 0.6, moments, ones, nan, [1000], history, 0, details)
    *_, tangents, weights, _ = noise_levels_figure.draw(report).axes
    drawn = {line.get_label(): line for axes in (tangents, weights) for line in axes.get_lines()}
    assert set(drawn) == {"tangent |g|, before it is normalised", "|dF/dt|", "unweighted loss", "its weight"}
    assert "warm-up share 0.50" in tangents.get_title()
    x, y = drawn["|dF/dt|"].get_data()
    assert x == pytest.approx((sigma / 0.6).atan().flip(0).tolist(), rel=1e-4)
    assert (y == 4).all()
    assert (
        len(
            noise_levels_figure.draw(
                noise_levels_measured.report("run", levels, 0.6, moments, ones, nan, [1000], history, 0)
            ).axes
        )
        < 9
    )


def test_other_trainings_have_none(train):
    with pytest.raises(UserError, match=r"Tangents: .* none"):
        train("diffusion", WATCHED)
    with pytest.raises(ValueError, match=r"factor > 1 .*memory >= 1"):
        Tangents(factor=1.0)
