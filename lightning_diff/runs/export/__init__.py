"""A trained model as files that other programs load: a file for each target, what they share, the card. No training."""

from .safetensors import export
from .targets import TARGETS, write

__all__ = ["TARGETS", "export", "write"]
