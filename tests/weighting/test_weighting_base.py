"""What the training step asks of a weighting and of a noise law, of the user's own as well."""

import pytest
import torch
from torch import nn

from lightning_diff import noise, weighting
from lightning_diff.modules import DiffusionModule
from lightning_diff.nets import MLP
from lightning_diff.noise import as_training_law
from lightning_diff.weighting import as_weighting


class Half(nn.Module):
    """A weighting of a user's own: `forward` alone."""

    def forward(self, log_snr, loss):
        return torch.full_like(loss, 0.5)


class Everything(Half):
    """One with all the methods, and no base class."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.prepared, self.shown = 0, 0

    def penalty(self, log_snr, loss):
        return self.scale.expand_as(loss)

    def prepare(self, levels):
        self.prepared += len(levels)

    def update(self, log_snr, loss):
        self.shown += len(loss)


class Flat(tuple):
    """A noise law of a user's own, to which nothing can be added."""

    __slots__ = ()

    def icdf(self, u):
        return 1 + u

    def log_prob(self, sigma):
        return torch.zeros_like(sigma)


def test_a_weighting_of_ones_own_is_completed():
    half, level, loss = as_weighting(Half()), torch.randn(5), torch.rand(5)
    assert (half(level, loss) == 0.5).all()
    assert (half.penalty(level, loss) == 0).all()
    assert not half.learns
    assert not half.has_penalty
    half.prepare(level)
    half.update(level, loss)


def test_what_it_has_itself_is_called():
    own, level, loss = Everything(), torch.randn(5), torch.rand(5)
    whole = as_weighting(own)
    assert whole.learns
    assert whole.has_penalty
    assert (whole.penalty(level, loss) == 1).all()
    whole.prepare(level)
    whole.update(level, loss)
    assert (own.prepared, own.shown) == (5, 5)


def test_those_of_the_package_are_taken_as_they_are():
    for each in (weighting.Uniform(), weighting.LearnedVariance(), weighting.MeasuredVariance()):
        assert as_weighting(each) is each
    for law in (noise.LogNormal(), noise.AdaptiveNoise(noise.LogNormal())):
        assert as_training_law(law) is law


@pytest.mark.parametrize(
    ("each", "learns"),
    [
        (weighting.Uniform(), False),
        (weighting.GaussianBell(), False),
        (weighting.AdaptiveWeight((2,)), False),
        (weighting.LearnedVariance(), False),
        (weighting.LearnedVariance(outer=weighting.LossZScore()), True),
        (weighting.LearnedVariance(outer=Half()), False),
        (weighting.MeasuredVariance(), True),
    ],
)
def test_losses_are_kept_only_for_what_learns_from_them(each, learns):
    assert each.learns is learns
    module = DiffusionModule(MLP((2,), width=16, depth=1), weighting=each)
    batch = {"position": torch.arange(4)}
    module._outputs(batch, torch.ones(4), torch.ones(4))
    assert bool(module._losses) is learns


def test_a_noise_law_of_ones_own_is_completed():
    own = Flat()
    law, sigma = as_training_law(own), torch.rand(5) + 1
    assert (law.importance(sigma) == 1).all()
    assert not law.learns
    assert law.base_law() is own
    law.update(sigma, sigma, sigma)
    assert (law.icdf(torch.zeros(2)) == 1).all()
    assert (law.log_prob(sigma) == 0).all()


def test_a_module_of_ones_own_keeps_its_place_in_checkpoints():
    own = Everything()
    module = DiffusionModule(MLP((2,), width=16, depth=1), weighting=own, noise=Flat())
    assert module.weighting is own
    assert [name for name in module.state_dict() if "denoiser" not in name] == ["weighting.scale"]
    outputs = module._outputs({"position": torch.arange(4)}, torch.ones(4), torch.full((4,), 2.0))
    assert float(outputs["loss"].detach()) == 2.0  # half of 2, and the penalty
    assert module._losses


def test_an_outer_weighting_with_a_penalty_is_refused():
    for outer in (weighting.LearnedVariance(), weighting.AdaptiveWeight((2,)), Everything()):
        with pytest.raises(ValueError, match="outer"):
            weighting.LearnedVariance(outer=outer)
