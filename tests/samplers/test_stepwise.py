"""A solution step by step is the sampler's, call for call, whatever each sample's grid."""

import pytest
import torch

from lightning_diff.foundation.errors import UserError
from lightning_diff.oracle import GaussianMixture
from lightning_diff.samplers import ODE_SOLVERS, named, unipc
from lightning_diff.samplers.stepwise import Stepwise

ORACLE = GaussianMixture(
    torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.0], [0.5]]).double(), torch.tensor([0.1, 0.2])
)
GRIDS = torch.tensor(
    [[80.0, 20, 5, 2, 0.7, 0.2, 0], [80, 9, 4, 1, 0.9, 0.05, 0], [80, 40, 30, 3, 0.3, 0.1, 0]]
).double()


@pytest.mark.parametrize("solver", ODE_SOLVERS)
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
    torch.testing.assert_close(x, ends, rtol=1e-12, atol=1e-12)
    assert calls[0] == calls[1] == 3 * ODE_SOLVERS[solver].calls(steps)


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_samples_that_end_on_the_way_leave_the_others_as_they_are(solver):
    """Where the end is not known; the samples have one step, three and six."""
    start, ends = 80 * torch.linspace(-1.5, 2, 3).double()[:, None], []
    solution, x = Stepwise(ORACLE, solver, None), start
    grids = torch.cat([GRIDS[:, :6], GRIDS[:, -1:]], 1)
    left = torch.arange(3)
    for k in range(6):
        D = solution.denoised(x, grids[left, k])
        on = torch.tensor([1, 3, 6])[left] > k + 1
        ends += D[~on].tolist()
        if on.any():
            solution.keep(on)
            left, x, D = left[on], x[on], D[on]
            x = solution(x, grids[left, k], grids[left, k + 1], denoised=D)
    options = {"lower_order_final": False} if solver == "unipc" else {}
    for i, steps in enumerate((1, 3, 6)):
        grid = torch.cat([GRIDS[i, :steps], GRIDS[i, -1:]])
        own = named(solver)(ORACLE, start[i : i + 1], grid, **options)
        assert ends[i] == pytest.approx(own[0].tolist(), rel=1e-12)


def test_unipc_lowers_its_order_towards_an_end_that_it_knows():
    known, unknown = (
        unipc(ORACLE, torch.ones(1, 1).double() * 80, GRIDS[0], lower_order_final=o) for o in (True, False)
    )
    assert not torch.allclose(known, unknown)


def test_an_unknown_solver_is_named():
    with pytest.raises(UserError, match="rk4"):
        Stepwise(ORACLE, "rk4", 3)
