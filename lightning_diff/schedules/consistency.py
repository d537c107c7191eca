"""The noise levels at which a consistency model is called."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor


def consistency(
    n: int, sigma_max: float = 80.0, sigma_data: float = 0.5, second: float = 1.1
) -> Float64[Tensor, " nodes"]:
    """n levels for n steps, then 0: sigma_max, and from the angle `second` on evenly down towards 0.

    In terms of t = arctan(sigma / sigma_data) the levels after the first are second (n - i) / (n - 1), i = 1..n-1. With two steps
    that is sCM's choice (arXiv 2410.11081), t = 1.1 for every data set, or 1.96 sigma_data; with more it is ours.
    `metrics.search_levels` finds better ones for a model.

    Args:
        n: steps, >= 1.
        sigma_max: the noise that sampling starts from.
        sigma_data: standard deviation of the data.
        second: angle of the second level, in radians, in (0, arctan(sigma_max / sigma_data)).
    """
    if n < 1:
        raise ValueError(f"consistency: n must be at least 1, got {n}")
    if not (sigma_max > 0 and sigma_data > 0 and 0 < second < math.atan(sigma_max / sigma_data)):
        raise ValueError(
            f"consistency: need sigma_max > 0, sigma_data > 0 and second between 0 and arctan(sigma_max / sigma_data), "
            f"got {sigma_max}, {sigma_data}, {second}"
        )
    angles = second * torch.arange(n - 1, 0, -1, dtype=torch.float64) / max(n - 1, 1)
    ends = torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    return torch.cat([ends[:1], sigma_data * angles.tan(), ends[1:]])
