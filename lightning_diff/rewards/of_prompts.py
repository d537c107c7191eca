"""Rewards for images that were drawn for prompts: told the prompts themselves, or the class of each."""

import inspect
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from .protocol import Reward, name_of, needs_label
from .weighted import WeightedSum

PROMPTS = "prompts"  # the parameter of a reward that takes texts


def for_prompts(reward: Reward, texts: Sequence[str], classes: Sequence[int] | None = None) -> Reward:
    """The reward for labels that are numbers of prompts; of a sum each part for itself.

    A reward with a parameter `prompts`, reward(images, label, prompts), is given the text of each image. Its label is the class of
    the prompt where classes are known, else the prompt's number.

    Args:
        reward: as it is.
        texts: of the prompts, in order of number.
        classes: of each, or None.
    """
    if isinstance(reward, WeightedSum):
        parts = {name: for_prompts(part, texts, classes) for name, part in reward.rewards.items()}
        return WeightedSum(parts, reward.weights, reward.normalise)
    return _OfPrompts(reward, texts, classes)


class _OfPrompts:
    def __init__(self, reward: Reward, texts: Sequence[str], classes: Sequence[int] | None):
        self.reward, self.texts, self.classes = reward, texts, classes
        self.name, self.needs_label, self._takes_texts = name_of(reward), needs_label(reward), takes_texts(reward)

    def __call__(self, images: Tensor, label: Tensor) -> Tensor:
        numbers = label.tolist()
        if self.classes is not None:
            label = torch.tensor([self.classes[number] for number in numbers], device=label.device)
        if not self._takes_texts:
            return self.reward(images, label)
        told = cast(Callable[..., Tensor], self.reward)
        return told(images, label, prompts=[self.texts[number] for number in numbers])


def takes_texts(reward: object) -> bool:
    """Whether it has a parameter `prompts`."""
    assert callable(reward)
    called = reward.forward if isinstance(reward, torch.nn.Module) else reward
    try:
        return PROMPTS in inspect.signature(called).parameters
    except (TypeError, ValueError):  # of what is not written in Python
        return False
