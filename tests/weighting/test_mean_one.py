"""Every weighting with every noise law: what claims weights of mean one has it over the draws, each times its importance."""

import copy
import itertools

import pytest
import torch

from lightning_diff.modules import DiffusionModule
from lightning_diff.nets import MLP
from lightning_diff.noise import AdaptiveNoise, InfoNoise, LogNormal, LogUniform, sigma_to_log_snr
from lightning_diff.weighting import GaussianBell, LearnedVariance, LogSNRBell, LossZScore, MeasuredVariance, Uniform

QUICK = {"warmup": 0, "refresh": 3, "min_count": 4.0}
LAWS = {
    "fixed": LogNormal,
    "uniform": lambda: InfoNoise(LogUniform(), **QUICK),
    "adaptive": lambda: AdaptiveNoise(LogNormal(), **QUICK),
    "gradient": lambda: AdaptiveNoise(LogNormal(), target="gradient", **QUICK),
    "info": lambda: InfoNoise(LogNormal(), **QUICK),
}
WEIGHTINGS = {
    "one": Uniform,
    "half": lambda: MeasuredVariance(gamma=0.5, **QUICK),
    "standard": lambda: MeasuredVariance(gamma=1.0, **QUICK),
    "variance": lambda: MeasuredVariance(gamma=2.0, **{**QUICK, "refresh": 4}),
    "score": LossZScore,
}
PAIRS = pytest.mark.parametrize(("law", "weighting"), list(itertools.product(LAWS, WEIGHTINGS)))


class Step:
    """The part of a training step that laws and weightings see, on losses whose spread and mean depend on the level."""

    def __init__(self, law, weighting):
        self.module = DiffusionModule(MLP((2,), width=16, depth=1), noise=law, weighting=weighting)
        self.module.on_fit_start()
        self.draws = torch.Generator().manual_seed(0)

    def take(self, steps):
        for _ in range(steps):
            sigma = self.levels(256)
            log_snr = sigma_to_log_snr(sigma)
            noise = torch.randn(256, generator=self.draws, dtype=torch.float64)
            loss = (0.3 + (-0.2 * log_snr).exp()) * (1 + 0.3 * noise).abs()
            self.module._outputs({"position": torch.arange(256)}, sigma, loss)
            self.module._learn()
        return self

    def levels(self, n):
        return self.module.noise.icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n)

    def weights(self, n=20_000):
        """What multiplies losses that are as large as is usual at their level: (n,)."""
        sigma = self.levels(n)
        usual = 0.3 + (-0.2 * sigma_to_log_snr(sigma)).exp()
        return self.module._outputs({"position": torch.arange(n)}, sigma, usual)["weight"]


@PAIRS
def test_weights_have_mean_one_over_the_draws(law, weighting):
    step = Step(LAWS[law](), WEIGHTINGS[weighting]()).take(60)
    for _ in range(4):  # at any distance from the last refresh
        weight = step.take(1).weights()
        assert float(weight.mean()) == pytest.approx(1, abs=0.02 if weighting == "score" else 2e-3)


@PAIRS
def test_a_resumed_run_has_the_same_weights_to_the_last_bit(law, weighting):
    step = Step(LAWS[law](), WEIGHTINGS[weighting]()).take(30)
    resumed = Step(LAWS[law](), WEIGHTINGS[weighting]())
    resumed.module.load_state_dict(step.module.state_dict())
    resumed.module.on_fit_start()
    resumed.draws = copy.deepcopy(step.draws)
    resumed.draws.set_state(step.draws.get_state())
    assert torch.equal(step.weights(), resumed.weights())
    step.module._losses.clear(), resumed.module._losses.clear()
    assert torch.equal(step.take(13).weights(), resumed.take(13).weights())


def test_a_state_of_before_is_scaled_to_the_law_it_was_saved_with():
    """Version 0.1 scaled to mean one under the base law whatever the law had become."""
    step = Step(InfoNoise(LogNormal(), **QUICK), MeasuredVariance(gamma=2.0, **QUICK)).take(60)
    base = torch.distributions.Normal(0, 1).icdf((torch.arange(4096, dtype=torch.float64) + 0.5) / 4096)
    old = step.module.state_dict()
    under_base = step.module.weighting(sigma_to_log_snr((1.2 * base - 1.2).exp()), base).mean()
    old["weighting.weights"] = (old["weighting.weights"] * step.module.weighting.scale / under_base).float()
    resumed = Step(InfoNoise(LogNormal(), **QUICK), MeasuredVariance(gamma=2.0, **QUICK))
    resumed.module.load_state_dict(old)
    resumed.module.on_fit_start()
    assert abs(float(under_base) - 1) > 0.1
    assert float(resumed.weights().mean()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("bell", [GaussianBell, LogSNRBell])
@pytest.mark.parametrize("law", ["fixed", "adaptive", "info"])
def test_a_bell_stands_at_the_mean_of_the_levels_that_count(bell, law):
    step = Step(LAWS[law](), bell()).take(60)
    sigma = step.levels(40_000)
    importance = step.module._outputs({"position": sigma}, sigma, torch.ones_like(sigma))["importance"]
    assert float((importance * sigma_to_log_snr(sigma)).mean()) == pytest.approx(step.module.weighting.mu, abs=0.02)


def test_an_outer_weighting_is_shown_law_and_importance():
    outer = LossZScore(beta=0.0)
    step = Step(AdaptiveNoise(LogNormal(), **QUICK), LearnedVariance(outer=outer)).take(30)
    assert outer.is_training_run
    step.take(1)
    assert float(outer.sums[0]) == pytest.approx(256, rel=0.02)  # the importances, not only as many
    assert float(outer.sums[0]) != 256


def test_a_law_that_is_as_it_was_is_not_shown_again():
    calls = []

    class Counting(Uniform):
        def prepare(self, levels):
            calls.append(len(levels))

    Step(LogNormal(), Counting()).take(5)
    Step(AdaptiveNoise(LogNormal(), **QUICK), Counting()).take(5)
    assert len(calls) == 2
    Step(InfoNoise(LogNormal(), **QUICK), Counting()).take(7)
    assert len(calls) == 2 + 1 + 2  # at the start and after two changes
