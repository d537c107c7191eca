"""LightningModules: thin; they wire the mathematics to the Trainer."""

from .base import TrainingModule
from .consistency import ConsistencyModule
from .diffusion import DiffusionModule
from .training_data import TrainingData

__all__ = ["ConsistencyModule", "DiffusionModule", "TrainingData", "TrainingModule"]
