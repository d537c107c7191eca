"""Time grids in closed form: n noise levels from sigma_max to sigma_min, evenly spaced in some coordinate, and then 0.

All have the signature  grid(n, sigma_min=0.002, sigma_max=80, ...) -> (n+1,) float64 on the CPU, strictly decreasing,
the last one 0. n >= 1 is the number of steps. With n = 1 the grid is [sigma_max, 0]. With sigma_min = 0 (not for
`log_snr`, whose coordinate has no 0) the n steps are even all the way down to 0 and no node is forced to a smallest
level. Below them: grids made of others, with another number of steps.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..samplers import check_sigmas

Grid = Float64[Tensor, " nodes"]


def karras(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Grid:
    """Even in sigma^(1/rho) (EDM, arXiv 2206.00364, eq. 5). rho > 0; rho = 1 is `uniform`, rho to infinity is
    `log_snr`."""
    if not rho > 0:
        raise ValueError(f"karras: rho must be positive, got {rho}")
    return _grid("karras", n, sigma_min, sigma_max, lambda s: s ** (1 / rho), lambda y: y**rho)


def uniform(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Grid:
    """Even in sigma."""
    return _grid("uniform", n, sigma_min, sigma_max, lambda s: s, lambda y: y)


def log_snr(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Grid:
    """Even in ln sigma, and so in the log-SNR: DPM-Solver's grid (arXiv 2206.00927). sigma_min > 0."""
    if not sigma_min > 0:
        raise ValueError(f"log_snr: sigma_min must be positive, for 0 has no logarithm, got {sigma_min}")
    return _grid("log_snr", n, sigma_min, sigma_max, math.log, torch.exp)


def tangent(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, sigma_data: float = 0.5) -> Grid:
    """Even in TrigFlow's angle t = arctan(sigma / sigma_data): the optimum for Gaussian data of that standard deviation
    (Align Your Steps, arXiv 2404.14507)."""
    if not sigma_data > 0:
        raise ValueError(f"tangent: sigma_data must be positive, got {sigma_data}")
    return _grid(
        "tangent", n, sigma_min, sigma_max, lambda s: math.atan(s / sigma_data), lambda t: sigma_data * torch.tan(t)
    )


def flow(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, shift: float = 1.0) -> Grid:
    """Even in flow matching's s = sigma / (1 + sigma), then shifted: s' = shift s / (1 + (shift - 1) s), which is
    sigma' = shift sigma (SD3, arXiv 2403.03206, section 5.3.2).

    Args:
        n, sigma_min: see above; with sigma_min = 0 the s are (n, n - 1, ..., 0) / n of the first, as flow pipelines have them.
        sigma_max: may be infinity, pure noise, s = 1, where the model knows it.
        shift: > 0; above 1, more steps at high noise. The ends stay as they are given.
    """
    if not shift > 0:
        raise ValueError(f"flow: shift must be positive, got {shift}")

    def place(sigma: float) -> float:
        return 1.0 if math.isinf(sigma) else sigma / (shift + sigma)

    return _grid("flow", n, sigma_min, sigma_max, place, lambda s: shift * s / (1 - s), endless=True)


GRIDS: dict[str, Callable[..., Grid]] = {
    "karras": karras,
    "uniform": uniform,
    "log_snr": log_snr,
    "tangent": tangent,
    "flow": flow,
}


def resample(sigmas: Float[Tensor, " nodes"], n: int) -> Float64[Tensor, " resampled"]:
    """The same grid with n steps: ln sigma interpolated linearly over the node's number, between the first and the last
    nonzero node, which stay (AYS, arXiv 2404.14507; ART, arXiv 2601.18681); 0 is appended."""
    nodes = torch.tensor(check_sigmas(sigmas)[:-1], dtype=torch.float64)
    _check_steps("resample", n)
    if len(nodes) == n:
        return torch.cat([nodes, nodes.new_zeros(1)])
    if len(nodes) == 1:
        raise ValueError("resample: a grid of one step has a single nonzero level, nothing to interpolate between")
    place = torch.linspace(0, len(nodes) - 1, n, dtype=torch.float64, device=nodes.device)
    left = place.long().clamp(max=len(nodes) - 2)
    levels = torch.lerp(nodes.log()[left], nodes.log()[left + 1], place - left).exp()
    levels[0] = nodes[0]
    if n > 1:
        levels[-1] = nodes[-1]
    return torch.cat([levels, levels.new_zeros(1)])


def along(curve: Float[Tensor, " nodes"], n: int) -> Float64[Tensor, " resampled"]:
    """A curve given at a clock's even times, at n + 1 even times: linear in between.

    Args:
        curve: (m+1,).
        n: >= 1.
    """
    if n < 1:
        raise ValueError(f"grid: need at least one step, got n={n}")
    m = len(curve) - 1
    place = torch.linspace(0, m, n + 1, dtype=torch.float64, device=curve.device)
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


def _grid(
    name: str,
    n: int,
    sigma_min: float,
    sigma_max: float,
    forward: Callable[[float], float],
    inverse: Callable[[Tensor], Tensor],
    endless: bool = False,
) -> Grid:
    """`forward` takes sigma to the coordinate that is spaced evenly, `inverse` back; `endless`: sigma_max may be infinity."""
    _check_steps(name, n)
    if not 0 <= sigma_min < sigma_max or (math.isinf(sigma_max) and not endless):
        raise ValueError(
            f"{name}: need 0 <= sigma_min < sigma_max < infinity, got sigma_min={sigma_min}, sigma_max={sigma_max}"
        )
    free = sigma_min == 0
    even = torch.linspace(0, 1, n + 1 if free else n, dtype=torch.float64)
    start, end = forward(sigma_max), forward(sigma_min)
    levels = torch.zeros(n + 1, dtype=torch.float64)
    levels[: len(even)] = inverse(start + even * (end - start))
    # The ends are the given levels, not what comes back from the coordinate (80 ** (1 / 7) ** 7 is
    # 79.99999999999997).
    if not free:
        levels[n - 1] = sigma_min
    levels[0], levels[n] = sigma_max, 0.0
    return levels


def _check_steps(name: str, n: int) -> None:
    if n < 1:
        raise ValueError(f"{name}: need at least one step, got n={n}")
