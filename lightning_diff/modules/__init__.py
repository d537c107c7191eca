"""LightningModules: thin; they wire the mathematics to the Trainer. No formulas."""

from .alignment import AlignmentModule
from .compiling import Compile
from .consistency import ConsistencyModule
from .critic import Critic
from .denoiser_module import TrainingModule
from .diffusion import DiffusionModule
from .schedule import ScheduleModule
from .training_data import TrainingData

__all__ = [
    "AlignmentModule",
    "Compile",
    "ConsistencyModule",
    "Critic",
    "DiffusionModule",
    "ScheduleModule",
    "TrainingData",
    "TrainingModule",
]
