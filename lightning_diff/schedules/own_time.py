"""A time grid in a network's own time, as the pipelines of the diffusers library take grids: `sigmas=` or `timesteps=`.

Everything here starts from noise levels sigma of x = x0 + sigma eps, strictly decreasing to 0; the first may be infinity, pure
noise. Some schedulers add the 0 at the end, others expect it.
"""

import math
from collections.abc import Sequence

import torch

from ..denoiser import FlowTime, TableTime


def flow_sigmas(sigmas: Sequence[float], shift: float = 1.0) -> list[float]:
    """s = sigma / (1 + sigma) without the 0 at the end: `sigmas=` of SD3's, Flux' and Sana's pipelines.

    Args:
        sigmas: noise levels.
        shift: of the scheduler, which applies it to what it is given: s' = shift s / (1 + (shift - 1) s), undone here.
    """
    levels = torch.tensor(list(sigmas[:-1]), dtype=torch.float64)
    found: list[float] = FlowTime().pipeline_levels(levels, shift)["sigmas"]
    return found


def table_sigmas(sigmas: Sequence[float]) -> list[float]:
    """The levels with the 0 at the end: `sigmas=` with EulerDiscreteScheduler, which finds the index of each as `TableTime` does.

    ValueError where the first is infinity: that scheduler's table ends at a finite level.
    """
    if math.isinf(sigmas[0]):
        raise ValueError("table_sigmas: EulerDiscreteScheduler has no infinite level")
    return [float(sigma) for sigma in sigmas]


def table_timesteps(sigmas: Sequence[float], table: TableTime) -> list[int]:
    """The nearest whole indices, without the 0 at the end, the first the table's last: `timesteps=` where `sigmas=` is not taken.

    Levels that fall on the same index are one step, so that there may be fewer.
    """
    levels = torch.tensor([sigma for sigma in sigmas[:-1] if not math.isinf(sigma)], dtype=torch.float64)
    indices = [round(each) for each in table(levels).tolist()]
    start = table.steps - 1
    return list(dict.fromkeys([start, *(index for index in indices[len(levels) - len(sigmas) + 2 :] if index < start)]))


def edm_ramp(sigmas: Sequence[float], sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """Places on EDM's own grid, 0 for sigma_max and 1 for sigma_min: `sigmas=` (a tensor) with EDMEulerScheduler."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high - sigma ** (1 / rho)) / (high - low) for sigma in sigmas[:-1]]


def angles(sigmas: Sequence[float]) -> list[float]:
    """t = arctan(sigma) with the 0 at the end: `timesteps=` with SCMScheduler, for latents of variance one (Sana-Sprint)."""
    return [math.atan(sigma) for sigma in sigmas]
