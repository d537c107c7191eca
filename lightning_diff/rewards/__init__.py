"""Rewards: the functions of images that reward fine-tuning raises.

A reward is any callable

    reward(images (B, C, H, W) in [-1, 1], label (B,)) -> (B,)      larger is better

so that a function of yours is one. One with the attribute `needs_label = True` is refused for a model without classes. It is
called without gradients. `scored` calls one and checks what it returns. Those here need no download, but for `ClipReward`.
"""

from .classes import ClassLogProbability, ReferenceDistance
from .clip import ClipReward
from .of_prompts import for_prompts
from .pictures import Brightness, Ink, JPEGCompressibility, Sharpness, Symmetry
from .protocol import Reward, name_of, needs_label, scored
from .weighted import WeightedSum, as_one, networks

__all__ = [
    "Brightness",
    "ClassLogProbability",
    "ClipReward",
    "Ink",
    "JPEGCompressibility",
    "ReferenceDistance",
    "Reward",
    "Sharpness",
    "Symmetry",
    "WeightedSum",
    "as_one",
    "for_prompts",
    "name_of",
    "needs_label",
    "networks",
    "scored",
]
