import math

import pytest
import torch

from lightning_diff.noise import LogNormal, sigma_to_log_snr, stratified
from lightning_diff.weighting import AdaptiveWeight


def typical(log_snr):
    """Large losses at either end, as of tangents that are not normalised."""
    return 0.05 + 3 * torch.sigmoid(-log_snr - 3) + 0.5 * torch.sigmoid(log_snr - 4)


def test_it_starts_at_the_logarithm_of_the_dimension_at_every_level():
    weighting = AdaptiveWeight((3, 8, 8))
    level = torch.linspace(-10, 10, 50)
    torch.testing.assert_close(weighting(level, torch.ones(50)), torch.full((50,), 192.0))
    torch.testing.assert_close(weighting.penalty(level, torch.ones(50)), torch.full((50,), -math.log(192)))
    torch.testing.assert_close(AdaptiveWeight((3, 8, 8), start=0.5).w(level), torch.full((50,), 0.5))


def test_for_tangents_of_norm_one_the_start_is_the_optimum():
    weighting = AdaptiveWeight((3, 8, 8))
    level, loss = torch.linspace(-8, 8, 64), torch.full((64,), 1 / 192)
    objective = weighting(level, loss) * loss + weighting.penalty(level, loss)
    (gradient,) = torch.autograd.grad(objective.sum(), weighting.coefficients)
    assert gradient.abs().max() < 1e-4


def test_at_the_optimum_every_level_weighs_the_same():
    """e^w = 1 / E[loss | level]."""
    weighting = AdaptiveWeight((2,), terms=16)
    optimiser = torch.optim.Adam(weighting.parameters(), lr=3e-2)
    steps, batch = 800, 128
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-2 * (1 - step / steps)
        log_snr = sigma_to_log_snr(LogNormal(-1.0, 1.4).icdf(stratified(batch))).float()
        loss = typical(log_snr) * torch.rand(batch) * 2
        objective = weighting(log_snr, loss) * loss + weighting.penalty(log_snr, loss)
        optimiser.zero_grad()
        objective.mean().backward()
        optimiser.step()
    level = torch.linspace(-3, 4, 29)
    ratio = weighting(level, typical(level)) * typical(level)
    assert ratio.log().abs().mean() < 0.05
    assert ratio.log().abs().max() < 0.15


def test_it_is_exact_under_autocast_and_saved_without_its_constants():
    weighting = AdaptiveWeight((2,))
    torch.nn.init.normal_(weighting.coefficients)
    level = torch.linspace(-8, 8, 9)
    outside = weighting.w(level)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weighting.w(level), outside)
    assert list(weighting.state_dict()) == ["coefficients"]
    with pytest.raises(ValueError, match=r"terms .*negative.* -1"):
        AdaptiveWeight((2,), terms=-1)
