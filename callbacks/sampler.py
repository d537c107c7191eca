"""Sampler settings of the callbacks that draw samples."""

from collections.abc import Mapping
from typing import Any, Literal

from ..foundation.errors import UserError
from ..schedules.sampling import Sampling, choose

GridName = Literal["karras", "uniform", "log_snr", "tangent"]


def choose_for(callback: str, denoiser: Any, sampler: Mapping[str, Any]) -> Sampling:
    """`sampling.choose`, its complaints in the callback's name.

    Args:
        callback: name, for messages.
        denoiser: the model to be drawn from.
        sampler: solver, steps, grid, levels; None for what suits the model.
    """
    try:
        return choose(denoiser, **sampler)
    except ValueError as error:
        raise UserError(f"{callback}: {error}") from error
