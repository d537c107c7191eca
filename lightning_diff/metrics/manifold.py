"""Precision and density (are generated images like real ones?), recall and coverage (are all real ones generated?)."""

import torch
from jaxtyping import Float
from torch import Tensor

from .neighbours import distance_rows, neighbour_radii
from .two_samples import TwoSamples


class _OnManifold:
    """Which generated points lie in a ball of the real ones, and which real ones in a ball of the generated."""

    def __init__(self, radius_generated: Float[Tensor, " n"], radius_real: Float[Tensor, " m"]):
        self.radius_generated, self.radius_real = radius_generated, radius_real
        self.on_real = torch.zeros_like(radius_generated, dtype=torch.bool)
        self.on_generated = torch.zeros_like(radius_real, dtype=torch.bool)

    def add(self, start: int, distance: Float[Tensor, "rows m"]) -> None:
        rows = slice(start, start + len(distance))
        self.on_real[rows] = (distance <= self.radius_real).any(1)
        self.on_generated |= (distance <= self.radius_generated[rows, None]).any(0)

    def figures(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        return self.on_real.double().mean(), self.on_generated.double().mean()


class _InBalls:
    """How many generated points each real one's ball holds."""

    def __init__(self, n: int, radius: Float[Tensor, " m"], k: int):
        self.n, self.radius, self.k = n, radius, k
        self.inside = torch.zeros_like(radius, dtype=torch.int64)

    def add(self, start: int, distance: Float[Tensor, "rows m"]) -> None:
        self.inside += (distance <= self.radius).count_nonzero(0)

    def figures(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        return self.inside.sum().double() / (self.k * self.n), (self.inside > 0).double().mean()


def _show(generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"], *counts: _OnManifold | _InBalls) -> None:
    """Let each count see every distance, in one pass."""
    for start, distance in distance_rows(generated, real):
        for count in counts:
            count.add(start, distance)


def precision_recall(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int = 3
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), both in [0, 1].

    A manifold is the union of balls around its points that reach to the k-th neighbour; k < n, m. Precision is the
    share of generated points on the real manifold, recall the share of real points on the generated one. Recall falls
    when n is smaller or m larger: compare at equal n and m only.
    """
    generated, real = generated.double(), real.double()
    seen = _OnManifold(neighbour_radii(generated, k)[0], neighbour_radii(real, k)[0])
    _show(generated, real, seen)
    return seen.figures()


def density_coverage(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int = 5
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Density, >= 0, and coverage, in [0, 1] (Naeem et al. 2020, arXiv 2002.09797).

    Density counts how many real balls hold a generated point, over k; coverage is the share of real balls that hold
    any. Both use the real points' balls alone, so that outliers among the generated do no harm; k < m.
    """
    generated, real = generated.double(), real.double()
    seen = _InBalls(len(generated), neighbour_radii(real, k)[0], k)
    _show(generated, real, seen)
    return seen.figures()


class Manifold(TwoSamples):
    """Precision, recall, density and coverage, by one pass over the distances: {"precision", "recall", "density", "coverage"}.

    The same figures as of `PrecisionRecall` and `DensityCoverage`, in less than half their time.

    Args:
        dim: d, the number of features.
        k: neighbours that set a ball's radius, of precision and recall.
        k_density: of density and coverage.
    """

    higher_is_better = True

    def __init__(self, dim: int, k: int = 3, k_density: int = 5, **kwargs: object):
        super().__init__(dim, **kwargs)
        self.k, self.k_density = k, k_density

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        generated, real = (points.double() for points in self.samples(least=max(self.k, self.k_density) + 1))
        radius, radius_density = neighbour_radii(real, self.k, self.k_density)
        on_manifold = _OnManifold(neighbour_radii(generated, self.k)[0], radius)
        in_balls = _InBalls(len(generated), radius_density, self.k_density)
        _show(generated, real, on_manifold, in_balls)
        values = *on_manifold.figures(), *in_balls.figures()
        return dict(zip(("precision", "recall", "density", "coverage"), values, strict=True))


class PrecisionRecall(TwoSamples):
    """Improved precision and recall of generated against real features: {"precision", "recall"}.

    Args:
        dim: d, the number of features.
        k: neighbours that set a ball's radius.
    """

    higher_is_better = True

    def __init__(self, dim: int, k: int = 3, **kwargs: object):
        super().__init__(dim, **kwargs)
        self.k = k

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        precision, recall = precision_recall(*self.samples(least=self.k + 1), k=self.k)
        return {"precision": precision, "recall": recall}


class DensityCoverage(TwoSamples):
    """Density and coverage of generated against real features: {"density", "coverage"}.

    Args:
        dim: d, the number of features.
        k: neighbours that set a ball's radius.
    """

    higher_is_better = True

    def __init__(self, dim: int, k: int = 5, **kwargs: object):
        super().__init__(dim, **kwargs)
        self.k = k

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        density, coverage = density_coverage(*self.samples(least=self.k + 1), k=self.k)
        return {"density": density, "coverage": coverage}
