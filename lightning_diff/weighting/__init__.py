"""Loss weights over log-SNR: fixed, learned, measured. Each multiplies the unweighted F-space loss of a sample.

A weighting is a module called as `weighting(log_snr (B,), loss (B,)) -> (B,)`, positive weights without gradient. `Weighting` is
the base class, with what else the training step calls: `penalty`, `prepare`, `update`. A module of your own need not derive from
it, and may have any of these.

EDM's loss is weight 1 here, because its lambda(sigma) = 1 / c_out^2 is what turns |D - x0|^2 into the F-space loss. With the
signal-to-noise ratio s = exp(log_snr), a published weight on |D - x0|^2 is therefore to be multiplied by 1 / (1 + s), one on the
error of the noise by s / (1 + s), and one on the error of v not at all.
"""

from .adaptive import AdaptiveWeight
from .base import Weighting, as_weighting
from .fixed import P2, GaussianBell, LogSNRBell, MinSNR, Sigmoid, SoftMinSNR, Uniform
from .learned import LearnedVariance
from .measured import LossZScore, MeasuredVariance

__all__ = [
    "P2",
    "AdaptiveWeight",
    "GaussianBell",
    "LearnedVariance",
    "LogSNRBell",
    "LossZScore",
    "MeasuredVariance",
    "MinSNR",
    "Sigmoid",
    "SoftMinSNR",
    "Uniform",
    "Weighting",
    "as_weighting",
]
