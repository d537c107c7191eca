"""A trained model as files that other programs load: one file for each target, what is common to them, the model card. No training."""

from .safetensors import export
from .targets import TARGETS, write

__all__ = ["TARGETS", "export", "write"]
