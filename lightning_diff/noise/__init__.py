"""Noise levels: the coordinates, the laws that training draws from, stratified draws, and laws that learn.

A *noise law* is any object with

    icdf(u)           u in (0, 1) -> sigma                      (inverse of the cumulative distribution; increasing)
    log_prob(sigma)   log density with respect to ln sigma      (so that laws over different ranges compare)

`TrainingLaw` is the base class of those here, with what else the training step calls: `importance`, `update`, `base_law`. A law
of your own need not derive from it, and may have `importance`, `update` and the attribute `base`.
"""

from .adaptive import AdaptiveNoise, InfoNoise
from .largest import WithLargest
from .laws import (
    Karras,
    LogNormal,
    LogUniform,
    NoiseLaw,
    TrainingLaw,
    as_training_law,
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
    "Karras",
    "LogNormal",
    "LogUniform",
    "NoiseLaw",
    "TrainingLaw",
    "WithLargest",
    "as_training_law",
    "flow_time_to_sigma",
    "log_snr_to_sigma",
    "sigma_to_flow_time",
    "sigma_to_log_snr",
    "sigma_to_t",
    "stratified",
    "t_to_sigma",
]
