"""Noise levels: the coordinates, the laws that training draws from, stratified draws, and laws that learn.

A *noise law* is any object with

    icdf(u)           u in (0, 1) -> sigma                      (inverse of the cumulative distribution; increasing)
    log_prob(sigma)   log density with respect to ln sigma      (so that laws over different ranges compare)

One that learns from the run also has

    base                            the law that it started from: where weights average to one
    update(log_snr, loss, weight)   the unweighted losses and the weights of one whole optimiser step, over all devices; those that
                                    are not finite are to be left out
    importance(sigma)               optional: (B,) factors on the loss that keep the objective what it was under the base law
"""

from .adaptive import AdaptiveNoise, InfoNoise
from .laws import (
    LogNormal,
    LogUniform,
    NoiseLaw,
    flow_time_to_sigma,
    log_snr_to_sigma,
    sigma_to_flow_time,
    sigma_to_log_snr,
    sigma_to_t,
    stratified,
    t_to_sigma,
)

__all__ = [
    "AdaptiveNoise",
    "InfoNoise",
    "LogNormal",
    "LogUniform",
    "NoiseLaw",
    "flow_time_to_sigma",
    "log_snr_to_sigma",
    "sigma_to_flow_time",
    "sigma_to_log_snr",
    "sigma_to_t",
    "stratified",
    "t_to_sigma",
]
