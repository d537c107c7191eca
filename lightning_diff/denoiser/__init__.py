"""Network + parametrisation -> denoiser: the one object that everything here trains, distils, schedules or rewards. No training."""

from .denoiser import KINDS, Denoiser, Position, default_time
from .predictions import PREDICTIONS, Coefficients, Prediction
from .times import TIMES, FlowTime, TableTime, Time, TimeName

__all__ = [
    "KINDS",
    "PREDICTIONS",
    "TIMES",
    "Coefficients",
    "Denoiser",
    "FlowTime",
    "Position",
    "Prediction",
    "TableTime",
    "Time",
    "TimeName",
    "default_time",
]
