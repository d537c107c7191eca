"""Any map-style dataset of the user's: items are read when they are needed, and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .image_source import ImageSource
from .items import Items, MapStyle


@dataclass(eq=False, kw_only=True)
class MapDataset(ImageSource):
    """A dataset with `__len__` and `__getitem__`: torchvision's, Hugging Face's, your own.

    An item is an image, (image, label, ...), or a mapping with an image and perhaps a label. An image is a PIL image, the
    bytes of an image file, or an array or tensor (H, W), (H, W, C), (C, H, W) or, for what is no image, (D,): uint8, read
    as byte / 127.5 - 1, bool, uint16, or floats in `value_range`; docs/data.md says how each is read. A label is a whole
    number, or one of the names that the dataset lists as `classes`, or its ClassLabel. Items should be the same at each
    reading: what is random inside the dataset is not repeated when a run is resumed; `flip` and `augment` are.

    Reading happens in the training process or in `workers`, which decode ahead.

    Args:
        dataset: to train with.
        test_dataset: held out, or None.
        image_key: of the image in a mapping.
        label_key: of the label in a mapping.
        look_at: how many items, evenly spaced, tell shape, channels, classes, standard deviation and fingerprint; the rest
            is checked when it is read.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("dataset.root",)  # the images themselves are compared

    dataset: object
    test_dataset: object = None
    image_key: str = "image"
    label_key: str = "label"
    look_at: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.look_at < 1:
            raise ValueError(f"MapDataset: look_at must be at least 1, got {self.look_at}")
        for dataset in (self.dataset, self.test_dataset):
            if dataset is not None:
                _map_style(dataset)

    def load(self) -> tuple[Items, Items | None]:
        train = self._items(self.dataset, self.channels, self.classes)
        if self.test_dataset is None:
            return train, None
        channels = 3 if len(train.shape) == 3 and train.shape[0] == 3 else self.channels
        return train, self._items(self.test_dataset, channels, train.num_classes)

    def _items(self, dataset: object, channels: int | None, classes: int) -> Items:
        reading = self.reading(channels)
        return Items(_map_style(dataset), reading, self.image_key, self.label_key, classes, self.look_at)


def _map_style(dataset: object) -> MapStyle:
    if isinstance(dataset, Mapping):  # datasets.DatasetDict, for one
        names = [str(name) for name in dataset]
        raise ValueError(
            f"MapDataset: a {type(dataset).__name__} is a mapping of splits, {', '.join(names) or 'none'}: give one of them "
            f"(load_dataset takes split={names[0] if names else 'train'}, load_from_disk the folder of one)"
        )
    if not isinstance(dataset, MapStyle):
        raise ValueError(f"MapDataset: {type(dataset).__name__} lacks __len__ or __getitem__")
    return dataset
