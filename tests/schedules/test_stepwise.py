"""A solution step by step is the sampler's, call for call, whatever each sample's grid."""

import pytest
import torch

from lightning_diff.oracle import GaussianMixture
from lightning_diff.samplers import named
from lightning_diff.samplers.stepwise import Stepwise
from lightning_diff.schedules.costs import ORDERS

ORACLE = GaussianMixture(
    torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.0], [0.5]]).double(), torch.tensor([0.1, 0.2])
)
GRIDS = torch.tensor(
    [[80.0, 20, 5, 2, 0.7, 0.2, 0], [80, 9, 4, 1, 0.9, 0.05, 0], [80, 40, 30, 3, 0.3, 0.1, 0]]
).double()


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_it_ends_where_the_sampler_ends(solver, steps):
    grids = torch.cat([GRIDS[:, :steps], GRIDS[:, -1:]], 1)
    start = 80 * torch.linspace(-1.5, 2, 3).double()[:, None]
    calls = [0, 0]

    def ask(which):
        def denoise(x, sigma):
            calls[which] += len(x)
            return ORACLE(x, sigma)

        return denoise

    ends = torch.cat([named(solver)(ask(0), start[i : i + 1], grids[i]) for i in range(3)])
    solution, x = Stepwise(ask(1), solver, steps), start
    for k in range(steps):
        x = solution(x, grids[:, k], grids[:, k + 1])
    torch.testing.assert_close(x, ends, rtol=1e-10, atol=1e-12)
    assert calls[0] == calls[1]


def test_an_unknown_solver_is_named():
    with pytest.raises(ValueError, match="solver must be one of"):
        Stepwise(ORACLE, "rk4", 3)
