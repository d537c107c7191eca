"""Noise levels from what a policy did, averaged over trajectories and over training."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

POWER = 6  # weights rise like n^6: the last fifth of a training has four fifths of them, its first half a hundredth


def running(average: Float[Tensor, "..."], new: Float[Tensor, "..."], updates: int) -> Float[Tensor, "..."]:
    """The average after one more value, weights rising like a power of their number, so that it forgets the beginning.

    Args:
        average: before.
        new: the value.
        updates: how many values there are with this one, >= 1.
    """
    return average + (new - average) * min(1.0, (POWER + 1) / (updates + POWER))


def along(curve: Float[Tensor, " nodes"], n: int) -> Float64[Tensor, " resampled"]:
    """A curve given at a clock's even times, at n + 1 even times: linear in between.

    Args:
        curve: (m+1,).
        n: >= 1.
    """
    if n < 1:
        raise ValueError(f"grid: need at least one step, got n={n}")
    m = len(curve) - 1
    place = torch.linspace(0, m, n + 1, dtype=torch.float64)
    left = place.long().clamp(max=m - 1)
    curve = curve.double()
    return torch.lerp(curve[left], curve[left + 1], place - left)


def levels_of(levels: Float[Tensor, " nodes"], sigma_max: float) -> Float64[Tensor, " nodes"]:
    """The levels with both ends exact, strictly decreasing even where a policy had come to a stand.

    Args:
        levels: (n+1,) from about sigma_max to about 0.
        sigma_max: the first level.
    """
    levels = levels.detach().double().cpu().clone()
    levels[0], levels[-1] = sigma_max, 0.0
    floor = sigma_max * 1e-9 * torch.arange(len(levels) - 1, -1, -1, dtype=torch.float64)
    levels[1:-1] = torch.maximum(levels[1:-1], floor[1:-1])
    for k in range(1, len(levels) - 1):
        levels[k] = torch.minimum(levels[k], levels[k - 1] * (1 - 1e-9))
    return levels


def through_angles(levels: Float[Tensor, " nodes"], n: int, sigma_data: float) -> Float64[Tensor, " resampled"]:
    """A grid in n steps: arctan(sigma / sigma_data) linear between its nodes. So the last node before 0 moves with n.

    Args:
        levels: (m+1,) from the largest to 0.
        n: >= 1.
        sigma_data: > 0, of the data.
    """
    return levels_of(sigma_data * along((levels.double() / sigma_data).atan(), n).tan(), float(levels[0]))


def discounted(values: Float[Tensor, "b k"], factor: float) -> Float[Tensor, "b k"]:
    """At each k the sum over j >= k of factor^(j - k) values_j."""
    sums, total = torch.empty_like(values), torch.zeros_like(values[:, 0])
    for k in reversed(range(values.shape[1])):
        total = values[:, k] + factor * total
        sums[:, k] = total
    return sums
