"""What runs leave as files: models, checkpoints, schedules, tables, pictures; whole, and read without running code."""

from .edm_pickle import load_edm_pickle
from .model import RECORD, WEIGHTS, ModelRecord, keep_levels, load_denoiser, load_weights, read_record, save_denoiser
from .schedule import load_schedule, save_schedule

__all__ = [
    "RECORD",
    "WEIGHTS",
    "ModelRecord",
    "keep_levels",
    "load_denoiser",
    "load_edm_pickle",
    "load_schedule",
    "load_weights",
    "read_record",
    "save_denoiser",
    "save_schedule",
]
