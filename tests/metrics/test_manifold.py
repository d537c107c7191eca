import pytest
import torch

from lightning_diff.metrics import Manifold, density_coverage, neighbours, precision_recall


@pytest.fixture(params=[1024, 7])
def rows(request, monkeypatch):
    """Distances in one block, or in many."""
    monkeypatch.setattr(neighbours, "ROWS", request.param)


@pytest.mark.usefixtures("rows")
def test_they_are_what_their_papers_define():
    generator = torch.Generator().manual_seed(5)
    fake, real = (
        torch.randn(30, 3, generator=generator).double(),
        1.5 * torch.randn(41, 3, generator=generator).double(),
    )

    def inside(centres, k, points):  # (points, centres)
        radii = torch.tensor([sorted((centres - c).norm(dim=1).tolist())[k] for c in centres], dtype=torch.float64)
        return torch.stack([(centres - p).norm(dim=1) <= radii for p in points])

    precision, recall = precision_recall(fake, real, k=3)
    assert float(precision) == float(inside(real, 3, fake).any(1).double().mean())
    assert float(recall) == float(inside(fake, 3, real).any(1).double().mean())
    density, coverage = density_coverage(fake, real, k=5)
    assert float(density) == pytest.approx(float(inside(real, 5, fake).sum()) / (5 * 30))
    assert float(coverage) == float(inside(real, 5, fake).any(0).double().mean())


@pytest.mark.usefixtures("rows")
def test_all_four_by_one_pass_are_the_two_pairs():
    generator = torch.Generator().manual_seed(7)
    fake, real = torch.randn(40, 4, generator=generator), torch.randn(50, 4, generator=generator)
    both = Manifold(4)
    both.update(fake, real=False)
    both.update(real, real=True)
    pairs = (*precision_recall(fake, real), *density_coverage(fake, real))
    assert list(both.compute()) == ["precision", "recall", "density", "coverage"]
    assert tuple(both.compute().values()) == pairs


@pytest.mark.usefixtures("rows")
def test_images_of_half_the_classes_are_precise_and_recall_half():
    generator = torch.Generator().manual_seed(6)
    real = torch.randn(400, 2, generator=generator)
    real[200:] += 100
    precision, recall = precision_recall(torch.randn(200, 2, generator=generator), real)
    density, coverage = density_coverage(torch.randn(200, 2, generator=generator), real)
    assert float(precision) > 0.9
    assert 0.4 < float(recall) <= 0.5
    assert 0.8 < float(density) < 1.2
    assert 0.4 < float(coverage) <= 0.5


def test_images_from_elsewhere_score_nothing():
    fake, real = torch.randn(50, 2) + 100, torch.randn(60, 2)
    assert precision_recall(fake, real) == (0, 0)
    assert density_coverage(fake, real) == (0, 0)


def test_density_forgives_an_outlier_that_recall_rewards():
    """One real outlier makes a huge ball; one generated outlier makes a manifold that covers everything."""
    real = torch.randn(100, 2)
    fake = torch.cat([torch.full((1, 2), 100.0), torch.full((10, 2), 99.0)])
    fake[1:4] = 0
    assert float(precision_recall(fake, real)[1]) == 1
    assert float(density_coverage(fake, real)[1]) < 0.2
