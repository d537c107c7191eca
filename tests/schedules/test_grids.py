"""Laws of the closed-form grids."""

import math

import pytest
import torch

from lightning_diff import schedules

COORDINATES = {
    "karras": lambda s: s ** (1 / 7),
    "uniform": lambda s: s,
    "log_snr": lambda s: s.log(),
    "tangent": lambda s: (s / 0.5).atan(),
    "flow": lambda s: s / (1 + s),
}


@pytest.mark.parametrize("name", schedules.GRIDS)
@pytest.mark.parametrize("n", [1, 2, 3, 18, 1000])
def test_ends_are_exact_and_it_decreases(name, n):
    sigmas = schedules.GRIDS[name](n, sigma_min=0.01, sigma_max=50.0)
    assert sigmas.shape == (n + 1,)
    assert sigmas.dtype == torch.float64
    assert sigmas[0] == 50
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    if n > 1:
        assert sigmas[-2] == 0.01


@pytest.mark.parametrize("name", schedules.GRIDS)
def test_even_in_its_coordinate(name):
    steps = COORDINATES[name](schedules.GRIDS[name](18)[:-1]).diff()
    torch.testing.assert_close(steps, steps.mean().expand(17), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["karras", "uniform", "tangent", "flow"])
def test_sigma_min_zero_is_even_down_to_zero(name):
    steps = COORDINATES[name](schedules.GRIDS[name](18, sigma_min=0.0)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(18), rtol=1e-9, atol=0)


def test_karras_is_edms_table():
    """EDM, eq. 5, written as in the paper."""
    i = torch.arange(18, dtype=torch.float64)
    paper = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(schedules.karras(18)[:-1], paper, rtol=1e-12, atol=0)


def test_karras_lies_between_uniform_and_log_snr():
    torch.testing.assert_close(schedules.karras(18, rho=1.0), schedules.uniform(18), rtol=1e-12, atol=0)
    torch.testing.assert_close(schedules.karras(18, rho=1e7), schedules.log_snr(18), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", schedules.GRIDS)
def test_resample_keeps_grid_and_ends(name):
    sigmas = schedules.GRIDS[name](18)
    assert torch.equal(schedules.resample(sigmas, 18), sigmas)
    for n in (2, 7, 50):
        other = schedules.resample(sigmas, n)
        assert other.shape == (n + 1,)
        assert (other[0], other[-2], other[-1]) == (sigmas[0], sigmas[-2], 0)
        assert (other.diff() < 0).all()
    assert schedules.resample(sigmas, 1).tolist() == [80, 0]


def test_resample_is_log_linear():
    """Exact on the log-linear grid; and every second node of the doubled grid is the grid."""
    torch.testing.assert_close(schedules.resample(schedules.log_snr(18), 41), schedules.log_snr(41), rtol=1e-12, atol=0)
    sigmas = schedules.karras(18)
    doubled = schedules.resample(sigmas, 35)
    torch.testing.assert_close(doubled[0:35:2], sigmas[:-1], rtol=1e-12, atol=0)
    torch.testing.assert_close(doubled[1:34:2], (sigmas[:-2] * sigmas[1:-1]).sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: schedules.karras(0), "at least one step"),
        (lambda: schedules.karras(5, rho=0.0), "rho"),
        (lambda: schedules.uniform(5, sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max"),
        (lambda: schedules.uniform(5, sigma_max=math.inf), "infinity"),
        (lambda: schedules.uniform(5, sigma_max=math.nan), "infinity"),
        (lambda: schedules.log_snr(5, sigma_min=0.0), "logarithm"),
        (lambda: schedules.tangent(5, sigma_min=-0.1), "sigma_min"),
        (lambda: schedules.tangent(5, sigma_data=0.0), "sigma_data"),
        (lambda: schedules.resample(torch.tensor([80.0, 0.0]), 4), "one step"),
        (lambda: schedules.resample(torch.tensor([80.0, 1.0]), 4), "must be 0"),
        (lambda: schedules.resample(schedules.karras(4), 0), "at least one step"),
    ],
)
def test_bad_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()
