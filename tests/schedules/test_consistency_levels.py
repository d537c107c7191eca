"""The levels of the consistency sampler."""

import math

import pytest
import torch

from lightning_diff import schedules
from lightning_diff.samplers import check_sigmas


def test_with_two_steps_the_second_level_is_scms():
    for sigma_data in (0.5, 0.75):
        sigmas = schedules.consistency(2, sigma_data=sigma_data)
        assert sigmas.tolist() == pytest.approx([80, sigma_data * math.tan(1.1), 0])
    assert float(schedules.consistency(2)[1]) == pytest.approx(0.982, abs=1e-3)  # as the paper has it


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_levels_after_the_first_are_even_in_the_angle(n):
    sigmas = schedules.consistency(n, sigma_max=50.0, sigma_data=0.6)
    check_sigmas(sigmas)
    assert sigmas.dtype == torch.float64
    assert sigmas.shape == (n + 1,)
    assert sigmas[0] == 50
    steps = (sigmas[1:] / 0.6).atan().diff()
    assert torch.allclose(steps, steps.new_full((n - 1,), -1.1 / max(n - 1, 1)))


@pytest.mark.parametrize(
    "options", [{"n": 0}, {"n": 2, "sigma_max": 0.5}, {"n": 2, "second": 0.0}, {"n": 2, "sigma_data": -1.0}]
)
def test_impossible_levels_are_refused(options):
    with pytest.raises(ValueError, match="consistency: "):
        schedules.consistency(**options)
