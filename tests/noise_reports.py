"""A report of noise levels for tests."""

import torch

from lightning_diff.artifacts import noise_levels_measured
from lightning_diff.artifacts.noise_levels import NoiseReport
from lightning_diff.noise import LogNormal, log_snr_to_sigma
from lightning_diff.statistics import NoiseLevelMoments

SIGMA_DATA = 0.6
LEVELS = torch.linspace(-10, 10, 81, dtype=torch.float64)


def report(
    mean=None, weight=None, gradient=None, law: LogNormal | None = None, name: str = "run", n: float = 1e6
) -> NoiseReport:
    """Of n samples drawn from the law, with a variance that leaves mean^2 + variance = (2 mean)^2."""
    mean = torch.ones_like(LEVELS) if mean is None else mean
    density = (law or LogNormal(-1.0, 1.1)).log_prob(log_snr_to_sigma(LEVELS, SIGMA_DATA)).exp() / 2
    count = (n * density * 0.25).round()
    known = count > 0
    nan = torch.full_like(LEVELS, torch.nan)
    moments = NoiseLevelMoments(count, torch.where(known, mean, nan), torch.where(known, 3 * mean**2, nan))
    weight = torch.where(known, torch.ones_like(LEVELS) if weight is None else weight, nan)
    gradient = nan if gradient is None else gradient
    history = torch.stack([torch.stack(moments), torch.stack(moments)])
    return noise_levels_measured.report(name, LEVELS, SIGMA_DATA, moments, weight, gradient, [500, 1000], history, 500)
