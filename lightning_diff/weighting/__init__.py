"""Loss weights over log-SNR: fixed, learned, measured. Each multiplies the unweighted F-space loss of a sample.

A weighting is a module called as `weighting(log_snr (B,), loss (B,)) -> (B,)`, positive weights without gradient. It may also have

    prepare(levels)            once before training: log-SNR at equally likely draws of the noise law (the base law, if it adapts)
    update(log_snr, loss)      after each optimiser step: its unweighted losses, over all devices, in order of position; any that
                               are not finite are to be left out
    penalty(log_snr, loss)     (B,), added to the weighted losses; its weights may then have a gradient of their own

What is learned in `update` depends neither on the number of processes nor on accumulation.

EDM's loss is weight 1 here, because its lambda(sigma) = 1 / c_out^2 is what turns |D - x0|^2 into the F-space loss. With the
signal-to-noise ratio s = exp(log_snr), a published weight on |D - x0|^2 is therefore to be multiplied by 1 / (1 + s), one on the
error of the noise by s / (1 + s), and one on the error of v not at all.
"""

from .adaptive import AdaptiveWeight
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
]
