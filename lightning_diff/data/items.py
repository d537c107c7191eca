"""The items of a map-style dataset as examples, each read when it is needed, and checked against those that were looked at."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..foundation.errors import UserError
from .caption_texts import Wordings, of_items
from .class_names import listed, of_dataset
from .classes import counted, gaps
from .crops import places_of
from .decode import some
from .deep import ImageError
from .formats import opened
from .image_set import Indices, Origin, as_values
from .looked_at import Item, LookedAt
from .pixels import Pixels, Reading
from .span import kind_of


@runtime_checkable
class MapStyle(Protocol):
    """What torch calls a map-style dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


class Items:
    """The examples of a map-style dataset.

    Args:
        dataset: of images, (image, label, ...), or mappings.
        reading: how images are read; without `channels`, those that are looked at tell whether all are grey.
        image_key: of the image in a mapping.
        label_key: of the label in a mapping.
        classes: number of classes; 0 counts them.
        look_at: how many items, evenly spaced, are looked at.

    Raises:
        UserError: no items, or one that cannot be used; its index is named.
    """

    def __init__(self, dataset: MapStyle, reading: Reading, image_key: str, label_key: str, classes: int, look_at: int):
        self.dataset, self.reading = dataset, reading
        self.name: str = getattr(dataset, "source_name", type(dataset).__name__)
        self.image_key, self.label_key = image_key, label_key
        if len(dataset) == 0:
            raise UserError(f"{self.name}: there are no images")
        self.num_classes, self.class_names = 0, of_dataset(dataset, label_key)
        self._by_name = False  # whether labels are names
        indices = np.unique(np.linspace(0, len(dataset) - 1, min(look_at, len(dataset))).astype(np.int64))
        self._know(self._look(indices) or self._look(indices), classes)

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n ..."], Int64[Tensor, " n"] | None]:
        """Images and labels (None if unlabelled).

        Raises:
            UserError: an item that cannot be read, is not like the others or not finite; its index is named.
        """
        return self._together(indices.tolist())

    def _together(
        self, indices: Sequence[int], places: Iterable[Sequence[float | None]] = repeat(())
    ) -> tuple[Float32[Tensor, "n ..."], Int64[Tensor, " n"] | None]:
        """Images and labels, each image cropped at its place; bytes become values all at once."""
        items = []
        for i, item, at in zip(indices, self._fetched(indices), places, strict=False):
            items.append(self._like_the_others(i, item, *at))
        pixels = [each.pixels for each in items]
        if pixels and all(each.dtype == np.uint8 for each in pixels):
            images = as_values(torch.from_numpy(np.stack(pixels)))
        else:
            images = torch.stack([each.image for each in items]) if items else torch.empty(0, *self.shape)
        return images, torch.tensor([each.label for each in items], dtype=torch.int64) if self.labelled else None

    def take_at(
        self, indices: Indices, seed: int, positions: Int64[np.ndarray, " n"]
    ) -> tuple[Float32[Tensor, "n ..."], Int64[Tensor, " n"] | None]:
        """The same as training sees it at these positions: cropped elsewhere each time, if crops are to be random."""
        return self._together(indices.tolist(), zip(*places_of(seed, positions), strict=True))

    def images(self, indices: Indices) -> Float32[Tensor, "n ..."]:
        return self.take(indices)[0]

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        labels = self.take(indices)[1]
        if labels is None:
            raise UserError(f"{self.name}: these images have no labels")
        return labels

    def texts(self, key: str) -> Wordings:
        """Captions of the images, what each item has under a key; see `caption_texts.of_data`."""
        return of_items(self.dataset, key, self._called)

    def _called(self, i: int) -> str:
        return f"{self.name}: item {i}"

    def std(self) -> float:
        """Standard deviation over all values of the items that were looked at."""
        return self._std

    def fingerprint(self) -> str:
        """sha256 of the number of items and of those that were looked at."""
        return self._fingerprint

    def _look(self, indices: Int64[np.ndarray, " n"]) -> LookedAt | None:
        """Read these items; None, and `reading` with 3 channels, if the first is grey and another one is not."""
        first = self._read(0)
        self.shape, self.labelled = first.pixels.shape, first.label is not None
        if _is_coloured(first.pixels):
            self.reading = replace(self.reading, channels=3)
        seen = LookedAt(f"{len(self.dataset)} {self.shape} {self.labelled}")
        for i in indices.tolist():
            item = self._read(i)
            if self.shape[0] == 1 and self.reading.channels is None and _is_coloured(item.pixels):
                self.reading = replace(self.reading, channels=3)
                return None
            self._check(item, i)
            seen.add(item, i)
        return seen

    def _know(self, seen: LookedAt | None, classes: int) -> None:
        """Keep what the items that were looked at tell."""
        assert seen is not None  # with channels given there is no other way
        seen.span.check(self.name, self.reading)
        if not torch.equal(self._read(0).image, self._read(0).image):
            seen.digest = hashlib.sha256(seen.begin)  # another run would see other values
            warnings.warn(
                f"{self.name}: item 0 differs between two readings, so that a resumed run would see other images; "
                "leave random transforms to flip and augment",
                stacklevel=2,
            )
        self._std, self._fingerprint = seen.std(), seen.digest.hexdigest()
        notes = tuple(seen.span.notes(self.reading))
        if seen.frames:
            notes += (f"the first frame of {some([f'item {i}' for i in seen.frames])}",)
        if seen.labels:
            self.num_classes = counted(self.name, seen.labels, classes)
            is_all = seen.span.count == len(self)
            if is_all and not classes:
                notes += gaps(self.name, seen.labels, self.num_classes, by_name=self._by_name)
        if seen.span.count < len(self):
            notes += (f"{seen.span.count:,} of them were looked at",)
        self.origin = Origin(self.name, "", notes)

    def _like_the_others(self, i: int, item: object, *at: float | None) -> Item:
        parsed = self._parsed(item, i, *at)
        self._check(parsed, i)
        return parsed

    def _check(self, item: Item, i: int) -> None:
        image, label = item.pixels, item.label
        if image.shape != self.shape:
            if self.shape[0] == 1 and _is_coloured(image):
                raise UserError(
                    f"{self.name}: image {i} is coloured, and those that were looked at are grey; set channels to 3 to train "
                    "with colours, to 1 to train with grey"
                )
            what = "; set size, and resize to how images come to it" if len(self.shape) == 3 else ""
            raise UserError(f"{self.name}: image {i} is {image.shape}, image 0 is {self.shape}{what}")
        if (label is not None) != self.labelled:
            raise UserError(f"{self.name}: item {i} has {'a' if label is not None else 'no'} label, unlike item 0")
        if label is not None and self.num_classes and label >= self.num_classes:
            raise UserError(
                f"{self.name}: label {label} of item {i} is not in 0..{self.num_classes - 1}; "
                "set classes to their number"
            )

    def _fetched(self, indices: Sequence[int]) -> Iterable[object]:
        """These items of the dataset: in one call where it has torch's `__getitems__`, else each when it is asked for."""
        together: Callable[[list[int]], Sequence[object]] | None = getattr(self.dataset, "__getitems__", None)
        if together is not None and len(indices) > 1:
            try:
                if len(found := together(list(indices))) == len(indices):
                    return found
            except Exception:  # one after another, so that the message names which
                pass
        return map(self._fetch, indices)

    def _fetch(self, i: int) -> object:
        try:
            return self.dataset[i]
        except UserError:
            raise
        except Exception as error:
            what = " ".join(str(error).split())
            raise UserError(f"{self.name}: item {i} cannot be read: {type(error).__name__}: {what}") from error

    def _read(self, i: int) -> Item:
        return self._parsed(self._fetch(i), i)

    def _parsed(self, item: object, i: int, down: float | None = None, right: float | None = None) -> Item:
        """Pixels and class of item i, cropped in the middle if no place is given (see `Framing.crop`)."""
        image, label = item, None
        if isinstance(item, Mapping):
            if self.image_key not in item:
                keys = ", ".join(map(str, item))
                raise UserError(f"{self.name}: item {i} has no {self.image_key!r}; its keys are {keys}: set image_key")
            image, label = item[self.image_key], item.get(self.label_key)
        elif isinstance(item, (tuple, list)):
            if not item:
                raise UserError(f"{self.name}: item {i} is empty")
            image, label = item[0], item[1] if len(item) > 1 else None
        return self._image(image, None if label is None else self._class(label, i), i, down, right)

    def _image(self, image: object, label: int | None, i: int, down: float | None, right: float | None) -> Item:
        try:
            if isinstance(image, Mapping) and isinstance(image.get("bytes"), bytes):  # undecoded, by `datasets`
                image = image["bytes"]
            elif isinstance(image, Mapping) and image.get("bytes") is None and isinstance(image.get("path"), str):
                image = Path(image["path"]).read_bytes()
            if isinstance(image, bytes):
                image = opened("", image)
            pixels = self.reading.pixels(image)
            framing = self.reading.framing
            if framing is not None and framing.how == "random_crop" and pixels.ndim == 3:
                pixels = framing.crop(pixels, down, right)
        except ImageError as error:
            raise UserError(f"{self.name}: image {i} {error}") from error
        except Exception as error:  # decoders raise all kinds
            what = " ".join(str(error).split())
            raise UserError(f"{self.name}: image {i} cannot be read: {type(error).__name__}: {what}") from error
        return Item(pixels, label, kind_of(pixels, image), image)

    def _class(self, label: object, i: int) -> int:
        if isinstance(label, (Tensor, np.ndarray, np.generic)) and label.ndim == 0:
            label = label.item()
        if isinstance(label, str):
            label = self._of_name(label, i)
        if not isinstance(label, int) or label < 0:
            raise UserError(f"{self.name}: label {label!r} of item {i} is no whole number >= 0")
        return label

    def _of_name(self, label: str, i: int) -> int | str:
        """The number of a class that is called so, as the dataset names its classes; not all items are read to find names."""
        if label in self.class_names:
            self._by_name = True
            return self.class_names.index(label)
        if self.class_names:
            raise UserError(
                f"{self.name}: no class is called {label!r}, the label of item {i}; there are {listed(self.class_names)}"
            )
        if label.isascii() and label.isdecimal():
            return int(label)
        raise UserError(
            f"{self.name}: label {label!r} of item {i} is a name, and the dataset does not list its names; give it an attribute "
            "`classes`, the names in order (datasets: class_encode_column)"
        )


def _is_coloured(image: Pixels) -> bool:
    return image.ndim == 3 and len(image) == 3
