"""Named feature spaces: a distance means something only beside the name and the hash of its space."""

import math
from collections.abc import Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import Data
from ..foundation.errors import UserError
from .classifier import Classifier, load_or_train

FeatureName = Literal["classifier", "rotation", "pixels", "fid_inception", "inception"]  # the last: an old name


@runtime_checkable
class FeatureExtractor(Protocol):
    """Images in [-1, 1] -> features.

    name: stands in the name of every figure. dim: number of features. hash: changes whenever the features could.
    """

    name: str
    dim: int
    hash: str

    def __call__(self, images: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]: ...


class Pixels:
    """The pixels themselves: need nothing, see little (a Gaussian with the digits' covariance passes for digits)."""

    name = "pixels"
    hash = "pixels"

    def __init__(self, shape: Sequence[int]):
        self.dim = math.prod(shape)

    def __call__(self, images: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        return images.flatten(1).float()


def feature_extractor(name: FeatureName | None, data: Data, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The feature space `name` for this data.

    classifier     64 features of a small network trained to classify the training split's labels (see `classifier.py`)
    rotation       the same network, trained to predict by how many quarter turns an image was rotated: needs no labels
    pixels         the pixels
    fid_inception  2048 features of the FID's Inception network, from a weights file (see `inception.py`)
    None           for images, classifier if they have labels and rotation if not; pixels for anything else

    Raises:
        UserError: labels that are not there, examples that the network cannot take, a weights file that is missing.
    """
    name = chosen(name, data)
    if name == "pixels":
        return Pixels(data.shape)
    if name == "fid_inception":
        from .inception import Inception

        return Inception(device=device)
    assert name != "inception"
    return load_or_train(data, name, device)


def dim(name: FeatureName | None, data: Data) -> tuple[FeatureName, int]:
    """Name and number of features of the space that `feature_extractor` would give; nothing is trained or loaded."""
    name = chosen(name, data)
    if name == "pixels":
        return name, math.prod(data.shape)
    if name == "fid_inception":
        from .inception import Inception

        return name, Inception.dim
    return name, Classifier.dim


def refuse_too_few(where: str, name: FeatureName | None, data: Data, n: int | None) -> None:
    """UserError for fewer images than a covariance of the features needs, before anything is trained, drawn or measured.

    Args:
        where: who measures, for the message.
        name: of the feature space; None for the one that suits the data.
        data: the source.
        n: samples; None for as many as there are held-out images.
    """
    space, size = dim(name, data)
    n = n or len(data.test or data.train)
    for count, what, remedy in (
        (len(data.train), "training images", "the data are too few to be measured so; leave it out"),
        (n, "samples", f"set n to at least {size + 1}"),
        (n if data.test is None else min(n, len(data.test)), "held-out images", "hold out more, or none (data.test_*)"),
    ):
        if count <= size:
            raise UserError(
                f"{where}: {count} {what} give no covariance of {size} features ({space}); {remedy}, or choose a smaller feature "
                "space (feature: pixels has one for each value of an image)"
            )


def chosen(name: FeatureName | None, data: Data) -> FeatureName:
    """The name of the space that `feature_extractor` would give; UserError for one that these data cannot have."""
    shape = data.shape
    if name is None:
        name = "pixels" if len(shape) != 3 else "classifier" if data.train.labelled else "rotation"
    if name == "inception":
        name = "fid_inception"
    if name not in get_args(FeatureName):
        raise UserError(f"there is no feature space {name!r}; choose one of {', '.join(get_args(FeatureName))}")
    if name == "pixels":
        return name
    if len(shape) != 3:
        raise UserError(f"feature space {name!r} is for images (C, H, W), {data.name} has {shape}; use 'pixels'")
    if name == "fid_inception" and shape[0] not in (1, 3):
        raise UserError(
            f"feature space 'fid_inception' needs grey or RGB images, {data.name} has {shape}; use 'pixels'"
        )
    if name == "classifier" and not data.train.labelled:
        raise UserError(f"feature space 'classifier' needs labels, {data.name} has none; use 'rotation' or 'pixels'")
    if name == "rotation" and shape[1] != shape[2]:
        raise UserError(f"feature space 'rotation' needs square images, {data.name} has {shape}; use 'pixels'")
    return name
