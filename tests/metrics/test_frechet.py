import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import FrechetDistance, frechet_distance


def _covariance(d: int, generator: torch.Generator) -> torch.Tensor:
    root = torch.randn(d, 2 * d, generator=generator, dtype=torch.float64)
    return root @ root.T / (2 * d)


def test_gaussians_with_a_common_basis_have_a_closed_form():
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    std_a, std_b, mean_a, mean_b = torch.rand(4, 12, generator=generator, dtype=torch.float64)
    value = frechet_distance(mean_a, basis * std_a**2 @ basis.T, mean_b, basis * std_b**2 @ basis.T)
    assert value == pytest.approx(float(((mean_a - mean_b) ** 2 + (std_a - std_b) ** 2).sum()), rel=1e-12)


def test_general_covariances_need_the_matrix_root():
    generator = torch.Generator().manual_seed(2)
    a, b = _covariance(8, generator), _covariance(8, generator)
    mean = torch.zeros(8, dtype=torch.float64)
    roots = torch.linalg.eigvals(a @ b).sqrt().real.sum()  # the usual formula, tr (AB)^1/2
    assert frechet_distance(mean, a, mean, b) == pytest.approx(float(a.trace() + b.trace() - 2 * roots), rel=1e-10)
    assert frechet_distance(mean, a, mean, b) == pytest.approx(frechet_distance(mean, b, mean, a), rel=1e-10)
    assert frechet_distance(mean, a, mean, a) == pytest.approx(0, abs=1e-12)


def test_singular_covariances_are_fine():
    """A dead feature: the distance is that of the other features."""
    a, b = torch.diag(torch.tensor([4.0, 0.0])), torch.diag(torch.tensor([1.0, 0.0]))
    assert frechet_distance(torch.zeros(2), a, torch.zeros(2), b) == pytest.approx(1.0, rel=1e-12)


class _Features(torch.nn.Module):
    num_features = 16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x  # float64: torchmetrics casts its result to the features' dtype


def test_it_agrees_with_torchmetrics():
    generator = torch.Generator().manual_seed(3)
    real = torch.randn(300, 16, generator=generator, dtype=torch.float64) @ _covariance(16, generator) + 5
    fake = torch.randn(257, 16, generator=generator, dtype=torch.float64) @ _covariance(16, generator) + 5.1
    theirs, ours = FrechetInceptionDistance(feature=_Features()), FrechetDistance(16)
    for part in real.split(100):
        theirs.update(part, real=True)
        ours.update(part, real=True)
    for part in fake.split(64):
        theirs.update(part, real=False)
        ours.update(part, real=False)
    assert float(ours.compute()) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_nothing_makes_the_sums_less_than_float64():
    metric = FrechetDistance(4)
    metric.set_dtype(torch.float32)
    metric.half()
    metric.update(torch.randn(10, 4), real=True)
    assert metric.outer.dtype == torch.float64


def test_too_few_images_is_an_error_that_says_how_many():
    metric = FrechetDistance(8)
    metric.update(torch.randn(100, 8), real=True)
    metric.update(torch.randn(8, 8), real=False)
    with pytest.raises(UserError, match=r"8 generated images .* at least 9"):
        metric.compute()
