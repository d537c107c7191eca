"""Fréchet distance between two sets of features: float64 from the first sum to the last square root."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from ..foundation.errors import UserError


def frechet_distance(
    mean_a: Float[Tensor, " d"],
    cov_a: Float[Tensor, "d d"],
    mean_b: Float[Tensor, " d"],
    cov_b: Float[Tensor, "d d"],
) -> float:
    """Squared Wasserstein-2 distance of two Gaussians (Heusel et al. 2017, arXiv 1706.08500, eq. 6), >= 0.

        |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)

    A^1/2 B A^1/2 has the eigenvalues of A B and is symmetric, so that two symmetric eigen-solves give the trace:
    real, non-negative, and four to seven times faster than the usual square root of A B. All of it in float64; in
    float32 the distance of nearly equal sets is wrong by tens of per cent.
    """
    mean_a, cov_a, mean_b, cov_b = (x.double() for x in (mean_a, cov_a, mean_b, cov_b))
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return float(max(distance.item(), 0.0))


class FrechetDistance(Metric):
    """Fréchet distance of generated against real features, from float64 sums: n, sum x, sum x x^T.

    Sums add up over processes, so uneven shares, and processes without any, give what one process gives.

    Args:
        dim: d, the number of features.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    n: Tensor  # (2,): generated, real
    total: Tensor  # (2, d)
    outer: Tensor  # (2, d, d)

    def __init__(self, dim: int, **kwargs: object):
        super().__init__(**kwargs)
        self.dim = dim
        for name, shape in (("n", (2,)), ("total", (2, dim)), ("outer", (2, dim, dim))):
            self.add_state(name, default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def set_dtype(self, dst_type: str | torch.dtype) -> "FrechetDistance":
        """Does nothing: sums in any other dtype than float64 would be wrong in silence."""
        return self

    def update(self, features: Float[Tensor, "n d"], real: bool) -> None:
        features = features.to(self.total)
        self.n[int(real)] += len(features)
        self.total[int(real)] += features.sum(0)
        self.outer[int(real)] += features.T @ features

    def compute(self) -> Float[Tensor, ""]:
        """() float64, >= 0. UserError with fewer than d + 1 samples on either side: such a covariance is singular."""
        for n, kind in zip(self.n.tolist(), ("generated", "real"), strict=True):
            check_enough(int(n), self.dim, kind)
        mean, cov = _moments(self.n, self.total, self.outer)
        return torch.tensor(frechet_distance(mean[0], cov[0], mean[1], cov[1]), dtype=torch.float64)


class Moments(Metric):
    """Mean and covariance of the features of one set of images, from the same float64 sums.

    Args:
        dim: d, the number of features.
    """

    is_differentiable = False
    full_state_update = False
    n: Tensor  # (1,)
    total: Tensor  # (1, d)
    outer: Tensor  # (1, d, d)

    def __init__(self, dim: int, **kwargs: object):
        super().__init__(**kwargs)
        self.dim = dim
        for name, shape in (("n", (1,)), ("total", (1, dim)), ("outer", (1, dim, dim))):
            self.add_state(name, default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def set_dtype(self, dst_type: str | torch.dtype) -> "Moments":
        """Does nothing, as in `FrechetDistance`."""
        return self

    def update(self, features: Float[Tensor, "n d"]) -> None:
        features = features.to(self.total)
        self.n += len(features)
        self.total += features.sum(0)
        self.outer += features.T @ features

    def compute(self) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Mean and covariance. UserError with fewer than d + 1 images: their covariance is singular."""
        check_enough(int(self.n), self.dim, "generated")
        mean, cov = _moments(self.n, self.total, self.outer)
        return mean[0], cov[0]


def _moments(
    n: Float[Tensor, " sets"], total: Float[Tensor, "sets d"], outer: Float[Tensor, "sets d d"]
) -> tuple[Float[Tensor, "sets d"], Float[Tensor, "sets d d"]]:
    """Mean and covariance of each set."""
    mean = total / n[:, None]
    return mean, (outer - n[:, None, None] * mean[:, :, None] * mean[:, None, :]) / (n - 1)[:, None, None]


def check_enough(n: int, dim: int, kind: str) -> None:
    """UserError if n samples cannot give a covariance of dim features."""
    if n <= dim:
        raise UserError(
            f"Fréchet distance: {n} {kind} images give no covariance of {dim} features; take at least {dim + 1} images"
        )
