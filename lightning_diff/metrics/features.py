"""Named feature spaces: a distance means something only beside the name and the hash of its space."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import Data
from ..foundation.errors import UserError
from .classifier import Classifier, load_or_train

if TYPE_CHECKING:
    from .dinov2 import DinoV2
    from .inception import Inception

# The last is an old name.
FeatureName = Literal["classifier", "rotation", "pixels", "fid_inception", "dinov2", "inception"]
PUBLISHED = ("fid_inception", "dinov2")  # networks whose weights others publish


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
    dinov2         1024 features of DINOv2's ViT-L/14, from a weights file (see `dinov2.py`)
    None           for grey and RGB images, classifier if they have labels and rotation if not; pixels for anything else

    Raises:
        UserError: labels that are not there, examples that the network cannot take, a weights file that is missing.
    """
    name = chosen(name, data)
    if name == "pixels":
        return Pixels(data.shape)
    if name in PUBLISHED:
        return _published(name)(device=device)
    return load_or_train(data, "rotation" if name == "rotation" else "classifier", device)


def dim(name: FeatureName | None, data: Data) -> tuple[FeatureName, int]:
    """Name and number of features of the space that `feature_extractor` would give; nothing is trained or loaded."""
    name = chosen(name, data)
    if name == "pixels":
        return name, math.prod(data.shape)
    return name, _published(name).dim if name in PUBLISHED else Classifier.dim


def _published(name: FeatureName) -> "type[Inception] | type[DinoV2]":
    """The class of a published network."""
    if name == "fid_inception":
        from .inception import Inception

        return Inception
    from .dinov2 import DinoV2

    return DinoV2


def refuse_unfit(
    where: str,
    name: FeatureName | None,
    data: Data,
    n: int | None,
    *,
    measured: str = "samples",
    reference: bool = True,
    measures: bool = True,
) -> None:
    """UserError for what cannot be measured so, before anything is trained, drawn or measured.

    That is a feature space that these data cannot have, fewer images than a covariance of its features needs, and the weights or
    library of a published network that are missing here.

    Args:
        where: who measures, for the message.
        name: of the feature space; None for the one that suits the data.
        data: the source.
        n: samples; None for as many as there are held-out images.
        measured: what they are called in messages.
        reference: whether the training images are the reference; else its moments are known.
        measures: whether anything is measured; else the reference's moments are all that is wanted.
    """
    try:
        space, size = dim(name, data)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    n = n or len(data.test or data.train)
    needed = f"set n to at least {size + 1}" if measured == "samples" else f"take at least {size + 1}"
    floors = n if data.test is None else min(n, len(data.test))
    for matters, count, what, remedy in (
        (reference, len(data.train), "training images", "the data are too few to be measured so; leave it out"),
        (measures, n, measured, needed),
        (measures, floors, "held-out images", "hold out more, or none (data.test_*)"),
    ):
        if matters and count <= size:
            raise UserError(
                f"{where}: {count} {what} give no covariance of {size} features ({space}); {remedy}, or choose a smaller feature "
                "space (feature: pixels has one for each value of an image)"
            )
    if space in PUBLISHED:
        try:
            _published(space).refuse_missing()
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def chosen(name: FeatureName | None, data: Data) -> FeatureName:
    """The name of the space that `feature_extractor` would give; UserError for one that these data cannot have."""
    shape = data.shape
    are_pictures = len(shape) == 3 and shape[0] in (1, 3)
    if name is None:
        name = "pixels" if not are_pictures else "classifier" if data.train.labelled else "rotation"
    if name == "inception":
        name = "fid_inception"
    if name not in get_args(FeatureName):
        raise UserError(f"there is no feature space {name!r}; choose one of {', '.join(get_args(FeatureName)[:-1])}")
    if name == "pixels":
        return name
    if not are_pictures:
        raise UserError(
            f"feature space {name!r} is for pictures, grey or RGB (1 or 3, H, W); {data.name} has {shape}, latents perhaps: "
            "use 'pixels', which compares the values themselves, or evaluate pictures of them"
        )
    if name == "classifier" and not data.train.labelled:
        raise UserError(f"feature space 'classifier' needs labels, {data.name} has none; use 'rotation' or 'pixels'")
    if name == "rotation" and shape[1] != shape[2]:
        raise UserError(f"feature space 'rotation' needs square images, {data.name} has {shape}; use 'pixels'")
    return name
