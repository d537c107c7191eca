import math

import numpy as np
import pytest
import torch

from lightning_diff.data import Toy
from lightning_diff.foundation.errors import UserError

DENSITIES = ["ring", "grid", "moons", "spirals", "checkerboard"]


def cells(points, bins, low, high):
    inside = ((points > low) & (points < high)).all(1)
    i = ((points[inside] - low) / (high - low) * bins).long()
    return torch.bincount(i[:, 0] * bins + i[:, 1], minlength=bins**2).double() / len(points)


@pytest.mark.parametrize("density", DENSITIES)
def test_samples_follow_the_density(density):
    toy, bins, low, high, n = Toy(8, density=density), 20, -2.0, 2.0, 100_000
    points, _ = toy.sample(np.arange(n))
    fine = bins * 8
    at = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine * (high - low) + low
    density_at = toy.log_prob(torch.cartesian_prod(at, at)).exp() * ((high - low) / fine) ** 2
    assert density_at.sum() == pytest.approx(1, abs=1e-3)
    expected = density_at.reshape(bins, 8, bins, 8).sum((1, 3)).flatten()
    # Total variation between a sample and its own law is below sum(sqrt(p / n)) / 2 (Jensen) on average.
    distance = (cells(points, bins, low, high) - expected).abs().sum() / 2
    assert distance < 1.1 * (expected / n).sqrt().sum() / 2


@pytest.mark.parametrize("density", ["ring", "grid", "moons", "spirals"])
def test_the_mixture_is_the_density(density):
    toy = Toy(8, density=density)
    weights, means, stds, _ = toy.mixture()
    assert weights.sum() == pytest.approx(1)
    points, _ = toy.sample(np.arange(50))
    each = [
        w * torch.distributions.MultivariateNormal(m, s**2 * torch.eye(2, dtype=torch.float64)).log_prob(points).exp()
        for w, m, s in zip(weights, means, stds, strict=True)
    ]
    assert torch.allclose(toy.log_prob(points), sum(each).log())


def test_points_are_addressed_by_position_and_held_out_ones_are_others():
    toy = Toy(8, density="spirals", n=800)
    points, labels = toy.sample(np.arange(900))
    some, some_labels = toy.sample(np.array([850, 3]))
    assert torch.equal(some, points[[850, 3]])
    assert torch.equal(some_labels, labels[[850, 3]])
    assert torch.equal(toy.train.images(torch.arange(800)), points[:800].float())
    assert torch.equal(toy.test.images(torch.arange(100)), points[800:].float())
    assert toy.fingerprint != Toy(8, density="spirals", n=800, seed=1).fingerprint


@pytest.mark.parametrize(("density", "classes"), list(zip(DENSITIES, [8, 25, 2, 2, 8], strict=True)))
def test_labels_are_equally_likely_and_optional(density, classes):
    toy = Toy(8, density=density, n=20_000, conditional=True)
    assert (toy.shape, toy.num_classes) == ((2,), classes)
    shares = torch.bincount(toy.train.labels, minlength=classes) / 20_000
    assert (shares - 1 / classes).abs().max() < 5 * math.sqrt(1 / classes / 20_000)
    assert Toy(8, density=density).num_classes == 0


def test_the_two_arms_mirror_each_other():
    toy = Toy(8, density="moons")
    points = torch.randn(100, 2, dtype=torch.float64)
    assert torch.allclose(toy.log_prob(points), toy.log_prob(-points))


def test_the_checkerboard_is_no_mixture():
    with pytest.raises(UserError, match="checkerboard"):
        Toy(8, density="checkerboard").mixture()
    with pytest.raises(ValueError, match=r"\bn\b.*8"):
        Toy(8, n=3)
