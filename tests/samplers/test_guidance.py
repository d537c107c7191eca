"""Laws of guidance: linear in the scale, exact at 0 and 1, and no evaluation that is not needed."""

import math

import pytest
import torch

from lightning_diff.denoiser import Denoiser
from lightning_diff.oracle import GaussianMixture
from lightning_diff.samplers.guidance import guided

X = torch.tensor([[0.5, -0.2], [1.5, 0.3]])
LABEL = torch.tensor([0, 1])


@pytest.fixture
def mixture():
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, 2.0]])
    return GaussianMixture(torch.ones(3), means, 0.4, torch.tensor([0, 1, 1]))


class Counted:
    def __init__(self, denoiser):
        self.denoiser, self.labels = denoiser, []

    def __call__(self, x, sigma, label):
        self.labels.append(label)
        return self.denoiser(x, sigma, label)


def test_classifier_free(mixture):
    """scale 0: unconditional; 1: conditional; w: on the line through both, at w."""
    sigma = torch.tensor(0.8)
    conditional, unconditional = mixture(X, sigma, LABEL), mixture(X, sigma)
    for scale in (0.0, 0.5, 1.0, 3.0):
        expected = (1 - scale) * unconditional + scale * conditional
        torch.testing.assert_close(guided(mixture, LABEL, scale=scale)(X, sigma), expected)


def test_autoguidance_gives_the_guide_the_same_label(mixture):
    weak = Counted(GaussianMixture(torch.ones(2), torch.zeros(2, 2), 1.0, torch.tensor([0, 1])))
    sigma = torch.tensor(0.8)
    D, D_guide = mixture(X, sigma, LABEL), weak.denoiser(X, sigma, LABEL)
    torch.testing.assert_close(guided(mixture, LABEL, scale=2.0, guide=weak)(X, sigma), D_guide + 2 * (D - D_guide))
    assert weak.labels == [LABEL]


def test_a_guide_is_enough_without_labels(mixture):
    guide = GaussianMixture(torch.ones(1), torch.zeros(1, 2), 1.0)
    sigma = torch.tensor(0.8)
    expected = 2 * mixture(X, sigma) - guide(X, sigma)
    torch.testing.assert_close(guided(mixture, scale=2.0, guide=guide)(X, sigma), expected)


def test_the_same_guide_changes_nothing(mixture):
    sigma = torch.tensor(0.8)
    denoise = guided(mixture, LABEL, scale=7.0, guide=mixture)
    torch.testing.assert_close(denoise(X, sigma), mixture(X, sigma, LABEL))


def test_evaluations_are_saved(mixture):
    """One at scale 1 and outside (low, high], two inside."""
    for scale, sigma, calls in ((1.0, 0.5, 1), (2.0, 0.2, 1), (2.0, 0.3, 2), (2.0, 1.0, 2), (2.0, 1.1, 1)):
        counted = Counted(mixture)
        output = guided(counted, LABEL, scale=scale, interval=(0.2, 1.0))(X, torch.tensor(sigma))
        assert len(counted.labels) == calls
        if calls == 1:
            assert torch.equal(output, mixture(X, torch.tensor(sigma), LABEL))


def test_a_level_for_each_sample(mixture):
    """The interval holds for each sample by itself."""
    sigma = torch.tensor([0.1, 0.5])
    output = guided(mixture, LABEL, scale=2.0, interval=(0.2, 1.0))(X, sigma)
    for i, scale in enumerate((1.0, 2.0)):
        alone = guided(mixture, LABEL[i : i + 1], scale=scale)(X[i : i + 1], sigma[i])
        torch.testing.assert_close(output[i : i + 1], alone)


def test_nothing_to_be_guided_by(mixture):
    with pytest.raises(ValueError, match="needs a label"):
        guided(mixture, scale=2.0)
    with pytest.raises(ValueError, match="low <= high"):
        guided(mixture, LABEL, scale=2.0, interval=(1.0, 0.5))
    with pytest.raises(ValueError, match="finite"):
        guided(mixture, LABEL, scale=math.nan)


class TakesScale(torch.nn.Module):
    guided = True


class Scaled(torch.nn.Module):
    """Outputs the guidance scale that it is given."""

    def __init__(self):
        super().__init__()
        self.net = TakesScale()

    def forward(self, x, sigma, label=None, guidance=None):
        return guidance[:, None].expand_as(x)


def test_a_network_that_takes_the_scale_is_told_it_inside_the_interval_and_asked_once():
    denoise = guided(Scaled(), LABEL, scale=2.5, interval=(0.1, 1.0))
    assert torch.equal(denoise(X, torch.tensor(0.5)), torch.full_like(X, 2.5))
    assert torch.equal(denoise(X, torch.tensor(5.0)), torch.ones_like(X))
    assert torch.equal(guided(Scaled(), LABEL)(X, torch.tensor(0.5)), torch.ones_like(X))
    with pytest.raises(ValueError, match=r"scale .*input .*no guide"):
        guided(Scaled(), LABEL, scale=2.0, guide=Scaled())


def test_a_consistency_model_without_such_an_input_cannot_be_guided():
    model = Denoiser(torch.nn.Identity(), kind="consistency")
    guided(model, LABEL)
    with pytest.raises(ValueError, match="without guidance"):
        guided(model, LABEL, scale=2.0)
