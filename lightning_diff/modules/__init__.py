"""LightningModules: thin; they wire the mathematics to the Trainer."""

from .alignment import AlignmentModule
from .base import TrainingModule
from .consistency import ConsistencyModule
from .diffusion import DiffusionModule
from .schedule import ScheduleModule
from .training_data import TrainingData

__all__ = [
    "AlignmentModule",
    "ConsistencyModule",
    "DiffusionModule",
    "ScheduleModule",
    "TrainingData",
    "TrainingModule",
]
