"""Precision and density (are generated images like real ones?), recall and coverage (are all real ones generated?)."""

import torch
from jaxtyping import Float
from torch import Tensor

from .neighbours import distance_rows, neighbour_radius
from .two_samples import TwoSamples


def precision_recall(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int = 3
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), both in [0, 1].

    A manifold is the union of balls around its points that reach to the k-th neighbour; k < n, m. Precision is the
    share of generated points on the real manifold, recall the share of real points on the generated one. Recall falls
    when n is smaller or m larger: compare at equal n and m only.
    """
    generated, real = generated.double(), real.double()
    radius_generated, radius_real = neighbour_radius(generated, k), neighbour_radius(real, k)
    on_real = torch.zeros(len(generated), dtype=torch.bool, device=generated.device)
    on_generated = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for start, distance in distance_rows(generated, real):
        rows = slice(start, start + len(distance))
        on_real[rows] = (distance <= radius_real).any(1)
        on_generated |= (distance <= radius_generated[rows, None]).any(0)
    return on_real.double().mean(), on_generated.double().mean()


def density_coverage(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int = 5
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Density, >= 0, and coverage, in [0, 1] (Naeem et al. 2020, arXiv 2002.09797).

    Density counts how many real balls hold a generated point, over k; coverage is the share of real balls that hold
    any. Both use the real points' balls alone, so that outliers among the generated do no harm; k < m.
    """
    generated, real = generated.double(), real.double()
    radius = neighbour_radius(real, k)
    inside = torch.zeros(len(real), dtype=torch.int64, device=real.device)
    for _, distance in distance_rows(generated, real):
        inside += (distance <= radius).sum(0)
    return inside.sum().double() / (k * len(generated)), (inside > 0).double().mean()


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
