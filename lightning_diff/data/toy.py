"""Two-dimensional densities whose exact denoiser is known: for experiments of seconds and tests against exact denoisers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ..foundation import rng
from ..foundation.errors import UserError
from .image_set import ImageSet
from .source import Data

Mixture = tuple[Float64[Tensor, " k"], Float64[Tensor, "k 2"], Float64[Tensor, " k"], Int64[Tensor, " k"]]


def _mixture(means: Float64[Tensor, "k 2"], std: float, classes: Int64[Tensor, " k"] | None = None) -> Mixture:
    k = len(means)
    one_each = torch.arange(k) if classes is None else classes
    return torch.full((k,), 1 / k, dtype=torch.float64), means, torch.full((k,), std, dtype=torch.float64), one_each


def _ring() -> Mixture:
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return _mixture(torch.stack([angle.cos(), angle.sin()], 1), std=0.1)


def _grid() -> Mixture:
    steps = torch.linspace(-1, 1, 5, dtype=torch.float64)
    return _mixture(torch.cartesian_prod(steps, steps), std=0.05)


def _moons() -> Mixture:
    angle = torch.linspace(0, math.pi, 64, dtype=torch.float64)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    return _mixture(torch.cat([upper, -upper]), std=0.07, classes=torch.arange(2).repeat_interleave(64))


def _spirals() -> Mixture:
    # The root spaces the components evenly along an arm, whose radius grows with the angle.
    angle = 3 * math.pi * torch.linspace(0.01, 1, 150, dtype=torch.float64).sqrt()
    arm = torch.stack([angle.cos(), angle.sin()], 1) * angle[:, None] / (3 * math.pi)
    return _mixture(torch.cat([arm, -arm]), std=0.03, classes=torch.arange(2).repeat_interleave(150))


MIXTURES: dict[str, Callable[[], Mixture]] = {"ring": _ring, "grid": _grid, "moons": _moons, "spirals": _spirals}


@dataclass(eq=False, kw_only=True)
class Toy(Data):
    """Points of a plane from a density that is known exactly; the held-out set has n // 8 more.

        ring          8 Gaussians on the unit circle, std 0.1           label: component
        grid          25 Gaussians on a 5x5 grid, std 0.05              label: component
        moons         two interlocking half circles, std 0.07           label: which one
        spirals       two arms of a spiral, std 0.03                    label: which one
        checkerboard  uniform on the 8 dark squares of a 4x4 board      label: square

    All but the checkerboard are mixtures of Gaussians, the curves too, of many, so that `mixture()` gives the exact
    denoiser by way of `oracle.GaussianMixture`.

    Args:
        density: which one.
        n: training points.
        seed: of the points; the run's seed does not change them.
        conditional: True for a model that is conditioned on the label.
    """

    density: Literal["ring", "grid", "moons", "spirals", "checkerboard"] = "ring"
    n: int = 65536
    seed: int = 0
    conditional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 8:
            raise ValueError(f"Toy: n must be at least 8, got {self.n}")

    def load(self) -> tuple[ImageSet, ImageSet]:
        points, labels = self.sample(np.arange(self.n + self.n // 8))
        classes = 8 if self.density == "checkerboard" else int(self.mixture()[3].max()) + 1
        train, test = slice(None, self.n), slice(self.n, None)
        return (
            ImageSet(points[train].float(), labels[train], f"{self.density} train", classes),
            ImageSet(points[test].float(), labels[test], f"{self.density} test", classes),
        )

    def sample(self, positions: Int64[np.ndarray, " b"]) -> tuple[Float64[Tensor, "b 2"], Int64[Tensor, " b"]]:
        """Points and labels by position: exact draws, without end."""
        draws = [rng.uniform(self.seed, f"toy {what}", positions) for what in ("which", "x", "y")]
        choice, xy = torch.from_numpy(draws[0]), torch.from_numpy(np.stack(draws[1:], axis=1))
        if self.density == "checkerboard":
            square = (choice * 8).long()
            row, column = square // 2, square % 2
            corner = torch.stack([2 * column + row % 2, row], 1)
            return (corner + xy) / 2 - 1, square
        weights, means, stds, classes = self.mixture()
        component = torch.searchsorted(weights.cumsum(0), choice).clamp(max=len(weights) - 1)
        return means[component] + stds[component, None] * torch.special.ndtri(xy), classes[component]

    def log_prob(self, points: Float64[Tensor, "b 2"]) -> Float64[Tensor, " b"]:
        """ln of the density at these points, with respect to area; the labels are summed over."""
        if self.density == "checkerboard":
            cell = ((points + 1) * 2).floor()
            dark = (cell.sum(1) % 2 == 0) & (cell >= 0).all(1) & (cell < 4).all(1)
            return torch.where(dark, -math.log(2.0), -math.inf).double()  # 8 squares of area 1/4
        weights, means, stds, _ = self.mixture()
        distance2 = (points[:, None] - means).square().sum(2)
        return (weights.log() - (2 * math.pi * stds**2).log() - distance2 / (2 * stds**2)).logsumexp(1)

    def mixture(self) -> Mixture:
        """weights, means, stds, classes of the components: the arguments of `oracle.GaussianMixture`.

        Raises:
            UserError: for the checkerboard, which is none.
        """
        if self.density == "checkerboard":
            raise UserError("Toy: the checkerboard is no mixture of Gaussians; the others are")
        return MIXTURES[self.density]()
