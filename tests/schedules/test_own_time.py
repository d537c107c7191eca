"""Grids in a network's own time: s, an index, an angle, a place on EDM's grid; each gives the levels back."""

import math

import pytest
import torch

from lightning_diff.denoiser import TableTime
from lightning_diff.schedules import karras
from lightning_diff.schedules.own_time import angles, edm_ramp, flow_sigmas, table_sigmas, table_timesteps

GRID = karras(6, 0.1, 80.0).tolist()


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_times_shifted_by_the_scheduler_are_those_of_the_levels(shift):
    given = torch.tensor(flow_sigmas([math.inf, *GRID], shift), dtype=torch.float64)
    s = shift * given / (1 + (shift - 1) * given)
    assert s[0] == 1
    assert torch.allclose(s[1:] / (1 - s[1:]), torch.tensor(GRID[:-1], dtype=torch.float64))


def test_angles_are_of_latents_of_variance_one_and_end_in_zero():
    assert angles([math.inf, 1.0, 0.0]) == [math.pi / 2, math.pi / 4, 0.0]


def test_indices_start_at_the_tables_end_and_are_the_nearest():
    table = TableTime()
    indices = table_timesteps([200.0, *GRID[1:]], table)
    assert indices[0] == 999
    assert indices == sorted(set(indices), reverse=True)
    found = table.sigmas[indices[1:]]
    assert torch.allclose(found, torch.tensor(GRID[1:-1], dtype=torch.float64), rtol=0.05)
    assert table_timesteps([math.inf, 1.0, 0.999, 0.0], table)[0] == 999
    assert len(table_timesteps([math.inf, 1.0, 0.9999, 0.0], table)) == 2


def test_a_table_has_no_infinite_level():
    assert table_sigmas(GRID) == GRID
    with pytest.raises(ValueError, match="infinite"):
        table_sigmas([math.inf, 1.0, 0.0])


def test_edms_own_grid_is_even_in_its_ramp():
    ramp = torch.tensor(edm_ramp(karras(6, 0.1, 80.0).tolist(), 0.1, 80.0))
    assert torch.allclose(ramp, torch.linspace(0, 1, 6), atol=1e-6)
