"""Files that runs leave: models, checkpoints, schedules, tables, pictures; written whole, read without running code.

Importing it needs neither Lightning nor matplotlib; the logger, the checkpoint plugin and the figures are imported by their files.
"""

from .conditions import Conditions, TrainedWith
from .edm_pickle import load_edm_pickle
from .model import RECORD, WEIGHTS, ModelRecord, keep_levels, load_denoiser, load_weights, read_record, save_denoiser
from .schedule import load_schedule, save_schedule

__all__ = [
    "RECORD",
    "WEIGHTS",
    "Conditions",
    "ModelRecord",
    "TrainedWith",
    "keep_levels",
    "load_denoiser",
    "load_edm_pickle",
    "load_schedule",
    "load_weights",
    "read_record",
    "save_denoiser",
    "save_schedule",
]
