"""Fixed and published weights, against numbers worked out by hand."""

import math

import pytest
import torch

from lightning_diff.noise import LogNormal, sigma_to_log_snr, stratified
from lightning_diff.weighting import (
    P2,
    GaussianBell,
    LearnedVariance,
    LogSNRBell,
    LossZScore,
    MinSNR,
    Sigmoid,
    SoftMinSNR,
    Uniform,
)

LEVELS = torch.tensor([0.01, 0.25, 1.0, 4.0, 100.0], dtype=torch.float64).log()  # signal-to-noise ratios
ANY = torch.ones(5, dtype=torch.float64)

TABLE = [
    (Uniform(), [1, 1, 1, 1, 1]),
    (MinSNR(), [0.01 / 1.01, 0.25 / 1.25, 1 / 2, 4 / 5, 5 / 101]),
    (MinSNR(gamma=0.5), [0.01 / 1.01, 0.25 / 1.25, 0.25, 0.1, 0.5 / 101]),
    (SoftMinSNR(), [0.01 / 1.0201, 0.16, 0.25, 0.16, 100 / 10201]),
    (SoftMinSNR(gamma=4), [0.04 / (4.01 * 1.01), 1 / (4.25 * 1.25), 0.4, 0.4, 400 / (104 * 101)]),
    (P2(), [0.01 / 1.0201, 0.16, 0.25, 0.16, 100 / 10201]),
    (P2(k=2, gamma=0.5), [0.01 / 1.01 / 2.01**0.5, 0.2 / 1.5, 0.5 / 3**0.5, 0.8 / 6**0.5, 100 / 101 / 102**0.5]),
    (P2(gamma=0), [0.01 / 1.01, 0.2, 0.5, 0.8, 100 / 101]),
    (Sigmoid(), [0.01 / 1.0201, 0.16, 0.25, 0.16, 100 / 10201]),
    (Sigmoid(bias=math.log(3)), [0.01 / 1.01 * 3 / 3.01, 0.2 * 3 / 3.25, 0.5 * 0.75, 0.8 * 3 / 7, 100 / 101 * 3 / 103]),
]


@pytest.mark.parametrize(("weighting", "expected"), TABLE, ids=lambda value: type(value).__name__)
def test_weights_on_the_f_space_loss(weighting, expected):
    torch.testing.assert_close(weighting(LEVELS, ANY), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("weighting", "on_x0", "on_noise", "on_v"),
    [
        (MinSNR(5.0), lambda s: s.clamp(max=5), lambda s: (5 / s).clamp(max=1), lambda s: s.clamp(max=5) / (s + 1)),
        (SoftMinSNR(2.0), lambda s: 2 * s / (s + 2), lambda s: 2 / (s + 2), None),
        (P2(1.0, 1.0), None, lambda s: 1 / (1 + s), None),
        (Sigmoid(-1.0), None, lambda s: 1 / (1 + math.e * s), None),
    ],
)
def test_each_form_of_a_published_weight_is_the_same_weight(weighting, on_x0, on_noise, on_v):
    """The errors of x0, the noise and v are one error at different scales: of a wrong F, for sigma_data = 1."""
    sigma = (-0.5 * LEVELS).exp()
    s = 1 / sigma**2
    error = torch.rand(5, dtype=torch.float64)  # in F
    in_x0 = error * sigma / (1 + sigma**2).sqrt()  # c_out
    in_noise = in_x0 / sigma  # noise = (x - x0) / sigma
    in_v = (in_noise * 1 + in_x0 * sigma) / (1 + sigma**2).sqrt()  # v = alpha noise - sigma' x0, variance preserving
    weighted = weighting(LEVELS, ANY) * error**2
    for form, wrong in ((on_x0, in_x0), (on_noise, in_noise), (on_v, in_v)):
        if form is not None:
            torch.testing.assert_close(form(s) * wrong**2, weighted)


@pytest.mark.parametrize(
    "weighting", [MinSNR(), SoftMinSNR(), P2(), Sigmoid(), LogSNRBell(), GaussianBell(), LearnedVariance()]
)
def test_weights_are_positive_numbers_at_extreme_levels_and_come_in_the_losses_precision(weighting):
    weight = weighting(torch.tensor([-40.0, 0.0, 40.0]), torch.ones(3))
    assert weight.dtype == torch.float32
    assert bool((weight > 0).all() and weight.isfinite().all())
    assert weighting(torch.zeros(2), torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_bells_centre_on_the_batch_as_published():
    level = torch.tensor([0.0, 2.0, 7.0], dtype=torch.float64)  # mean 3
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(LogSNRBell(0.1)(level, ones), torch.tensor([1 / 1.9, 1 / 1.1, 1 / 2.6]).double())
    torch.testing.assert_close(GaussianBell(0.1)(level, ones), torch.tensor([-0.9, -0.1, -1.6]).double().exp())


@pytest.mark.parametrize("bell", [LogSNRBell, GaussianBell])
def test_bells_centre_on_the_noise_law_in_training_so_that_micro_batches_agree(bell):
    law = LogNormal()
    weighting = bell()
    weighting.prepare(sigma_to_log_snr(law.icdf((torch.arange(4096, dtype=torch.float64) + 0.5) / 4096)))
    level = sigma_to_log_snr(law.icdf(stratified(128)))
    whole = weighting(level, torch.ones_like(level))
    parts = torch.cat([weighting(part, torch.ones_like(part)) for part in level.split(16)])
    assert torch.equal(whole, parts)
    torch.testing.assert_close(whole, bell()(level, torch.ones_like(level)), rtol=0.01, atol=0)


def test_the_published_bell_is_nearly_a_narrower_law():
    """Under EDM's law its weights average to 0.827 and leave an effective P_std of 1.02 instead of 1.20."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    level = sigma_to_log_snr(LogNormal().icdf(u))
    weight = LogSNRBell()(level, torch.ones_like(level))
    assert float(weight.mean()) == pytest.approx(0.827, abs=1e-3)
    p_std = ((weight * (level - level.mean()) ** 2).mean() / weight.mean()).sqrt() / 2
    assert float(p_std) == pytest.approx(1.02, abs=0.01)


def test_z_scores_of_a_whole_batch_as_published():
    loss = torch.tensor([1.0, 2.0, 3.0])  # mean 2, standard deviation 1
    torch.testing.assert_close(LossZScore()(torch.zeros(3), loss), torch.tensor([0.9, 1.0, 1.1]))


def test_z_scores_in_training_come_from_the_steps_before():
    weighting = LossZScore(alpha=0.1, beta=0.5)
    weighting.prepare(torch.zeros(8))
    level = torch.zeros(1000)
    assert torch.equal(weighting(level, torch.rand(1000)), torch.ones(1000))  # nothing known yet
    for mean in (7.0, 5.0, 2.0):
        weighting.update(level, mean + torch.randn(1000))
    count = torch.tensor([0.25, 0.5, 1.0])
    expected_mean = float((count * torch.tensor([7.0, 5.0, 2.0])).sum() / count.sum())
    where = torch.linspace(0, 8, 2001)
    crossing = float(where[(weighting(torch.zeros(2001), where) - 1).abs().argmin()])
    assert crossing == pytest.approx(expected_mean, abs=0.1)


def test_z_scores_leave_weights_positive_and_ignore_what_is_not_finite():
    weighting = LossZScore(alpha=0.19)
    weighting.prepare(torch.zeros(8))
    weighting.update(torch.zeros(4), torch.tensor([1.0, 2.0, torch.inf, torch.nan]))
    weight = weighting(torch.zeros(2), torch.tensor([-1e6, 1e6]))
    torch.testing.assert_close(weight, torch.tensor([0.05, 1.95]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinSNR(0.0), "MinSNR: gamma .*positive"),
        (lambda: SoftMinSNR(-1.0), "SoftMinSNR: gamma .*positive"),
        (lambda: P2(k=0.0), "P2: k must be positive"),
        (lambda: P2(gamma=-1.0), "P2: gamma .*negative"),
        (lambda: LogSNRBell(-0.1), "LogSNRBell: alpha .*negative"),
        (lambda: LossZScore(alpha=0.5), "LossZScore: need clip"),
        (lambda: LossZScore(beta=1.0), r"LossZScore: beta .*\[0, 1\)"),
        (lambda: LearnedVariance(0), "LearnedVariance: channels .*1"),
        (
            lambda: LearnedVariance(outer=LearnedVariance()),
            "LearnedVariance: outer .*fixed or measured",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
