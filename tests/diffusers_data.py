"""Latents at random with embeddings at random: what a network of the library that takes a text is trained on in tests."""

from dataclasses import dataclass

import torch
from diffusers_models import MODELS, condition, make

from lightning_diff.data import Data
from lightning_diff.data.image_set import ImageSet


class Spoken(ImageSet):
    """Four conditions, one after another."""

    def __init__(self, name):
        latents = torch.randn(32, *MODELS[name][2], generator=torch.Generator().manual_seed(0))
        super().__init__(latents.clamp(-1, 1))
        net = make(name)
        self.conditions, self.null_condition, self.condition_shapes = (
            condition(net, 4),
            net.null_condition,
            net.condition_shapes,
        )

    def take(self, indices):
        return self.images(indices), self.conditions[torch.as_tensor(indices) % 4]


@dataclass(eq=False, kw_only=True)
class Latents(Data):
    network: str

    def load(self):
        return Spoken(self.network), None
