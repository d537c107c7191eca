"""Rewards that compare an image with its class: by a classifier, or by examples."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class ClassLogProbability:
    """ln p(label | image) under a classifier; at most 0.

    Args:
        logits: callable images -> (B, classes) scores before the softmax. With the project's own classifier `net`
            (`metrics.classifier`): lambda images: net.logits(net(images)).
        temperature: > 0; the scores are divided by it. A trained classifier is sure of most images; above 1 it still tells the good
            ones from the better ones.
    """

    needs_label = True

    def __init__(self, logits: Callable[[Tensor], Tensor], temperature: float = 1.0):
        if not temperature > 0:
            raise ValueError(f"ClassLogProbability: temperature must be positive, got {temperature}")
        self.logits, self.temperature = logits, temperature

    def __call__(self, images: Float[Tensor, "b c h w"], label: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        log_p = (self.logits(images).float() / self.temperature).log_softmax(1)
        if len(label) and not (label.min() >= 0 and label.max() < log_p.shape[1]):
            raise ValueError(
                f"ClassLogProbability: labels must be in 0..{log_p.shape[1] - 1}, got {label.min()}..{label.max()}"
            )
        return log_p.gather(1, label[:, None])[:, 0]


class ReferenceDistance:
    """Minus the distance to a reference set: the root mean square difference, averaged over the k nearest references.

    Args:
        references: (N, C, H, W) images in [-1, 1], or (N, D) features of them.
        labels: (N,) classes: an image is compared with references of its own class. None: with all.
        features: callable images -> (B, D); for references that are features. None: the pixels.
        nearest: k, 1..N (of a class, if there are labels).
    """

    def __init__(
        self,
        references: Float[Tensor, "n *s"],
        labels: Int64[Tensor, " n"] | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
        nearest: int = 1,
    ):
        fewest = len(references) if labels is None else int(labels.unique(return_counts=True)[1].min())
        if not 1 <= nearest <= fewest:
            raise ValueError(
                f"ReferenceDistance: nearest must be in 1..{fewest}, the references to choose from, got {nearest}"
            )
        self.references, self.labels, self.features, self.nearest = references.flatten(1), labels, features, nearest
        self.needs_label = labels is not None

    def __call__(self, images: Float[Tensor, "b c h w"], label: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        x = images.flatten(1) if self.features is None else self.features(images)
        if x.shape[1] != self.references.shape[1]:
            raise ValueError(
                f"ReferenceDistance: the references have {self.references.shape[1]} numbers each, the images {x.shape[1]}"
            )
        distance: Tensor = torch.cdist(x, self.references.to(x.device, x.dtype)) / x.shape[1] ** 0.5
        if self.labels is not None:
            other = self.labels.to(x.device) != label[:, None]
            if other.all(1).any():
                raise ValueError(f"ReferenceDistance: there is no reference of class {label[other.all(1)][0].item()}")
            distance = distance.masked_fill(other, torch.inf)
        return -distance.topk(self.nearest, 1, largest=False).values.mean(1)
