"""A coordinate of noise levels whose even steps lose equally much: the share of the way int |Q|^(1/2) dsigma, as measured."""

import torch
from jaxtyping import Float64
from torch import Tensor

from .grids import karras

PIECES = 512  # of the coordinate, linear in sigma


def measured_levels(sigma_min: float, sigma_max: float) -> Float64[Tensor, " m"]:
    """Where |Q| is measured: 64 levels of EDM's."""
    return karras(64, max(sigma_min, 1e-5 * sigma_max), sigma_max)[:-1]


def curve_of(levels: Float64[Tensor, " m"], q: Float64[Tensor, " m"]) -> Float64[Tensor, " shares"]:
    """sigma at even shares of the way, from 0 on; below the last level |Q| stays what it is there.

    Args:
        levels: decreasing.
        q: |Q| there.
    """
    levels, root = levels.flip(0), q.sqrt().flip(0)
    way = torch.cat([levels[:1] * root[:1], levels[0] * root[0] + torch.cumulative_trapezoid(root, levels)])
    sigma, way = torch.cat([levels.new_zeros(1), levels]), torch.cat([way.new_zeros(1), way])
    even = torch.linspace(0, float(way[-1]), PIECES + 1, dtype=torch.float64)
    above = torch.searchsorted(way, even).clamp(1, len(way) - 1)
    part = (even - way[above - 1]) / (way[above] - way[above - 1])
    return torch.lerp(sigma[above - 1], sigma[above], part)


def level_at(curve: Float64[Tensor, " shares"], u: Float64[Tensor, " k"]) -> Float64[Tensor, " k"]:
    """sigma where the share u of the way is left."""
    place = u * PIECES
    below = place.long().clamp(max=PIECES - 1)
    return torch.lerp(curve[below], curve[below + 1], place - below)
