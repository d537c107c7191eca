"""DEIS: the polynomial through the last slopes is integrated exactly, whatever the steps."""

import pytest
import torch

from lightning_diff import samplers, schedules
from lightning_diff.oracle import GaussianMixture

UNEVEN = torch.tensor([9.0, 7.5, 4.0, 3.8, 1.5, 0.4, 0.0], dtype=torch.float64)


def end(solver, sigmas, slope, **options):
    """Where the solver is at the last level before 0, from 0 at the first, if dx/dsigma is a function of sigma."""
    seen = {}

    def denoise(x, sigma):
        seen[sigma.item()] = x.item()
        return x - sigma * slope(sigma)

    getattr(samplers, solver)(denoise, torch.zeros(1, 1, dtype=torch.float64), sigmas, **options)
    return [seen[sigma] for sigma in sigmas[:-1].tolist()]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_polynomials_of_its_degree_are_integrated_exactly_on_any_grid(order):
    """After the first steps, whose past is shorter."""
    found = end("deis", UNEVEN, lambda s: s ** (order - 1), order=order)
    for i in range(order - 1, len(UNEVEN) - 2):
        exact = (UNEVEN[i + 1] ** order - UNEVEN[i] ** order) / order
        assert found[i + 1] - found[i] == pytest.approx(exact.item(), rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_with_even_steps_it_is_ipndm_and_at_order_one_euler(order):
    even = schedules.uniform(8, 0.0, 8.0)
    assert end("deis", even, torch.sin, order=order) == pytest.approx(end("ipndm", even, torch.sin, order=order))
    assert end("deis", UNEVEN, torch.sin, order=1) == pytest.approx(end("euler", UNEVEN, torch.sin))


@pytest.mark.whole
@pytest.mark.parametrize("grid", ["karras", "log_snr"])
def test_its_order_is_three_on_smooth_grids(grid):
    """From 80, where trajectories are so straight that the first two steps, of lower order, do not show."""
    generator = torch.Generator().manual_seed(0)
    means, x = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (3, 64))
    mixture = GaussianMixture(torch.tensor([0.3, 0.5, 0.2]), means, torch.tensor([0.5, 0.4, 0.6]))

    def solve(solver, n):
        return solver(mixture, 80 * x, schedules.GRIDS[grid](n, 0.01))

    exact = solve(samplers.unipc, 2048)
    errors = [(solve(samplers.deis, n) - exact).norm(dim=1).mean() for n in (256, 1024)]
    assert (errors[0] / errors[1]).log2() / 2 == pytest.approx(3, abs=0.1)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="deis: order"):
        samplers.deis(lambda x, sigma: x, torch.zeros(1, 1), schedules.karras(3), order=4)
