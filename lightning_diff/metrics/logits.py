"""Class scores for rewards, from a small classifier: another network than the one that figures are measured with."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import Data
from .classifier import SEED, Classifier, load_or_train


class ClassLogits:
    """Images in [-1, 1] -> (B, classes), by a small network that is trained at the first call, in seconds, and cached.

    Args:
        data: whose training images and labels it learns; in a recipe `${data}` is the run's own.
        seed: of the classifier's training. Figures (`label_agreement`, `frechet_classifier`) come from that of seed 0; another
            one here keeps the judge apart from what was optimised for.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("data.*",)  # as a rule the run's own, whose images are compared

    def __init__(self, data: Data, seed: int = SEED + 1):
        self.data, self.seed = data, seed
        self._net: Classifier | None = None

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        if self._net is None:
            self.data.setup()
            self._net = load_or_train(self.data, "classifier", images.device, seed=self.seed)
        return self._net.logits(self._net(images.to(torch.float32)))
