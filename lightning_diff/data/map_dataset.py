"""Any map-style dataset of the user's: items are read when they are needed, and checked."""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64
from PIL import Image
from torch import Tensor

from ..foundation.errors import UserError
from .image_set import Indices
from .source import Data

CHANNELS = (1, 3)  # what tells (C, H, W) from (H, W, C)


@runtime_checkable
class MapStyle(Protocol):
    """What torch calls a map-style dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


@dataclass(eq=False, kw_only=True)
class MapDataset(Data):
    """A dataset with `__len__` and `__getitem__`: torchvision's, Hugging Face's, your own.

    An item is an image, (image, label, ...), or a mapping with an image and perhaps a label. An image is a PIL image,
    or an array or tensor (H, W), (H, W, C), (C, H, W) or, for what is no image, (D,): uint8, read as byte / 127.5 - 1,
    or floats in `value_range`. A label is a whole number. Items should be the same at each reading: what is random
    inside the dataset is not repeated when a run is resumed; `flip` and `augment` are.

    Reading happens in the training process or in `workers`, which decode ahead.

    Args:
        dataset: to train with.
        test_dataset: held out, or None.
        image_key: of the image in a mapping.
        label_key: of the label in a mapping.
        value_range: (low, high) of float images, mapped to (-1, 1); None takes floats of any size as they are.
        classes: number of classes; 0 counts them in the items that are looked at.
        look_at: how many items, evenly spaced, tell shape, classes, standard deviation and fingerprint; the rest is
            checked when it is read.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("dataset.root",)  # the images themselves are compared

    dataset: object
    test_dataset: object = None
    image_key: str = "image"
    label_key: str = "label"
    value_range: Sequence[int | float] | None = (-1.0, 1.0)
    classes: int = 0
    look_at: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.look_at < 1:
            raise ValueError(f"MapDataset: look_at must be at least 1, got {self.look_at}")
        if self.value_range is not None and not (
            len(self.value_range) == 2 and self.value_range[0] < self.value_range[1]
        ):
            raise ValueError(f"MapDataset: value_range must be (low, high) with low < high, got {self.value_range}")
        for dataset in (self.dataset, self.test_dataset):
            if dataset is not None:
                _map_style(dataset)

    def load(self) -> tuple["Items", "Items | None"]:
        train = self._items(self.dataset, self.classes)
        return train, None if self.test_dataset is None else self._items(self.test_dataset, train.num_classes)

    def _items(self, dataset: object, classes: int) -> "Items":
        return Items(_map_style(dataset), self.image_key, self.label_key, self.value_range, classes, self.look_at)


def _map_style(dataset: object) -> MapStyle:
    if not isinstance(dataset, MapStyle):
        raise ValueError(f"MapDataset: {type(dataset).__name__} lacks __len__ or __getitem__")
    return dataset


class Items:
    """The examples of a map-style dataset; arguments as for `MapDataset`."""

    def __init__(
        self,
        dataset: MapStyle,
        image_key: str,
        label_key: str,
        value_range: Sequence[int | float] | None,
        classes: int,
        look_at: int,
    ):
        self.dataset, self.name = dataset, type(dataset).__name__
        self.image_key, self.label_key, self.value_range = image_key, label_key, value_range
        if len(dataset) == 0:
            raise UserError(f"{self.name}: there are no images")
        self.num_classes = 0
        self.shape: tuple[int, ...] = ()
        self._floats = False
        first, label = self._read(0)
        self.shape, self.labelled = tuple(first.shape), label is not None
        self._look(np.unique(np.linspace(0, len(dataset) - 1, min(look_at, len(dataset))).astype(np.int64)), classes)

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n ..."], Int64[Tensor, " n"] | None]:
        """Images and labels (None if unlabelled).

        Raises:
            UserError: an item that is not like the others or not finite; its index is named.
        """
        items = [self._read(i) for i in indices.tolist()]
        images = torch.stack([image for image, _ in items]) if items else torch.empty(0, *self.shape)
        return images, torch.tensor([label for _, label in items], dtype=torch.int64) if self.labelled else None

    def images(self, indices: Indices) -> Float32[Tensor, "n ..."]:
        return self.take(indices)[0]

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        labels = self.take(indices)[1]
        if labels is None:
            raise UserError(f"{self.name}: these images have no labels")
        return labels

    def std(self) -> float:
        """Standard deviation over all values of the items that were looked at."""
        return self._std

    def fingerprint(self) -> str:
        """sha256 of the number of items and of those that were looked at."""
        return self._fingerprint

    def _look(self, indices: Int64[np.ndarray, " n"], classes: int) -> None:
        repeats = torch.equal(self._read(0)[0], self._read(0)[0])
        digest = hashlib.sha256(f"{len(self.dataset)} {self.shape} {self.labelled}".encode())
        count, total, squares, smallest, labels = 0, 0.0, 0.0, math.inf, []
        for i in indices.tolist():
            image, label = self._read(i)
            values = image.double()
            count += values.numel()
            total += float(values.sum())
            squares += float(values.square().sum())
            smallest = min(smallest, float(values.min()))
            if label is not None:
                labels.append(label)
            if repeats:
                digest.update(image.contiguous().numpy().tobytes())
                digest.update(str(label).encode())
        if smallest >= 0 and self._floats and self.value_range is not None:
            low, high = self.value_range
            raise UserError(
                f"{self.name}: no value of {len(indices)} items lies in the lower half of value_range ({low:g}, "
                f"{high:g}); set value_range to what the images span, such as ({(low + high) / 2:g}, {high:g})"
            )
        if not repeats:
            warnings.warn(
                f"{self.name}: item 0 differs between two readings, so that a resumed run would see other images; "
                "leave random transforms to flip and augment",
                stacklevel=2,
            )
        self._std: float = max(squares / count - (total / count) ** 2, 0.0) ** 0.5
        self._fingerprint = digest.hexdigest()
        if labels:
            self.num_classes = classes or max(labels) + 1
            if max(labels) >= self.num_classes:
                raise UserError(
                    f"{self.name}: there is a label {max(labels)}, which is not in 0..{self.num_classes - 1}"
                )

    def _read(self, i: int) -> tuple[Float32[Tensor, "..."], int | None]:
        """Image and label of item i, checked."""
        item, label = self.dataset[i], None
        if isinstance(item, Mapping):
            if self.image_key not in item:
                keys = ", ".join(map(str, item))
                raise UserError(f"{self.name}: item {i} has no {self.image_key!r}; its keys are {keys}: set image_key")
            item, label = item[self.image_key], item.get(self.label_key)
        elif isinstance(item, (tuple, list)):
            item, label = item[0], item[1] if len(item) > 1 else None
        image = self._image(item, i)
        if not self.shape:
            return image, None if label is None else self._class(label, i)
        if image.shape != self.shape:
            raise UserError(f"{self.name}: image {i} is {tuple(image.shape)}, image 0 is {self.shape}")
        if (label is not None) != self.labelled:
            raise UserError(f"{self.name}: item {i} has {'a' if label is not None else 'no'} label, unlike item 0")
        return image, None if label is None else self._class(label, i)

    def _image(self, image: object, i: int) -> Float32[Tensor, "..."]:
        if isinstance(image, Image.Image):
            image = np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
        x = torch.as_tensor(image)
        if x.ndim == 2:
            x = x[None]
        elif x.ndim == 3 and x.shape[-1] in CHANNELS and x.shape[0] not in CHANNELS:
            x = x.permute(2, 0, 1)
        if x.dtype == torch.uint8:
            return x.float() / 127.5 - 1
        if not x.is_floating_point():
            raise UserError(f"{self.name}: image {i} is {x.dtype}; expected uint8 or floating point")
        x, self._floats = x.float(), True
        if not x.isfinite().all():
            raise UserError(f"{self.name}: image {i} holds NaN or infinite values")
        if self.value_range is None:
            return x
        low, high = self.value_range
        margin = 0.01 * (high - low)  # of resized images
        if x.min() < low - margin or x.max() > high + margin:
            raise UserError(
                f"{self.name}: image {i} has values from {x.min():g} to {x.max():g}, "
                f"outside value_range ({low:g}, {high:g})"
            )
        return (x - low) * (2 / (high - low)) - 1

    def _class(self, label: object, i: int) -> int:
        if isinstance(label, (Tensor, np.ndarray, np.generic)) and label.ndim == 0:
            label = label.item()
        if not isinstance(label, int) or label < 0:
            raise UserError(f"{self.name}: label {label!r} of item {i} is no whole number >= 0")
        if self.num_classes and label >= self.num_classes:
            raise UserError(
                f"{self.name}: label {label} of item {i} is not in 0..{self.num_classes - 1}; "
                "set classes to their number"
            )
        return label
