import pytest
import torch

from lightning_diff.noise import LogNormal, sigma_to_log_snr, stratified
from lightning_diff.weighting import LearnedVariance, MeasuredVariance, MinSNR


def typical(log_snr):
    """A mean loss as trained models have it: high where all is noise, lower in the middle, rising where all is signal."""
    return 0.1 + 0.6 * torch.sigmoid(-log_snr - 2) + 0.5 * torch.sigmoid(log_snr - 5)


def fitted(weighting, steps=800, batch=128):
    optimiser = torch.optim.Adam(weighting.parameters(), lr=3e-2)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-2 * (1 - step / steps)
        log_snr = sigma_to_log_snr(LogNormal().icdf(stratified(batch))).float()
        loss = typical(log_snr) * torch.rand(batch) * 2
        objective = weighting(log_snr, loss) * loss + weighting.penalty(log_snr, loss)
        optimiser.zero_grad()
        objective.mean().backward()
        optimiser.step()
    return weighting


@pytest.mark.parametrize("outer", [None, MinSNR()])
def test_at_the_optimum_every_level_weighs_the_same(outer):
    """e^u = E[loss | log_snr], whatever stands outside both terms."""
    weighting = fitted(LearnedVariance(outer=outer))
    level = torch.linspace(-2, 4, 25)  # 80 % of the law's draws
    ratio = weighting.u(level).exp() / typical(level)
    assert ratio.log().abs().mean() < 0.03
    assert ratio.log().abs().max() < 0.1


def test_the_outer_weight_multiplies_both_terms():
    outer = MinSNR()
    weighting = LearnedVariance(outer=outer)
    plain = LearnedVariance()
    plain.load_state_dict(weighting.state_dict())
    level, loss = torch.linspace(-5, 5, 11), torch.rand(11)
    torch.testing.assert_close(weighting(level, loss), outer(level, loss) * plain(level, loss))
    torch.testing.assert_close(weighting.penalty(level, loss), outer(level, loss) * plain.u(level))


def test_an_outer_weighting_that_learns_is_shown_the_losses():
    weighting = LearnedVariance(outer=MeasuredVariance(bins=10, refresh=1, warmup=0))
    weighting.prepare(torch.linspace(-4, 4, 100))
    weighting.update(torch.linspace(-4, 4, 100), torch.rand(100))
    assert weighting.outer.updates == 1
    assert {"outer.weights", "weight", "frequency", "phase"} <= weighting.state_dict().keys()


def test_features_and_weights_are_magnitude_preserving():
    """u is of the order of 1 whatever the number of channels, and the length of the stored weights is without effect."""
    level = torch.linspace(-8, 8, 200)
    size = torch.stack([LearnedVariance(channels).u(level).detach().square().mean() for channels in [32, 512] * 40])
    assert float(size[::2].mean()) == pytest.approx(1, abs=0.35)
    assert float(size[1::2].mean()) == pytest.approx(1, abs=0.35)
    weighting = LearnedVariance()
    before = weighting.u(level)
    with torch.no_grad():
        weighting.weight.mul_(7)
    torch.testing.assert_close(weighting.u(level), before, rtol=1e-4, atol=1e-5)
