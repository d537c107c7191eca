"""Large data sets of libraries that read any item by its number, as sources of a recipe: Hugging Face's `datasets`, `litdata`."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64

from ..foundation.errors import NotHereError, UserError
from ..foundation.extras import required
from . import order
from .image_source import ImageSource
from .items import Items, MapStyle
from .pixels import Reading

FILES = {".parquet": "parquet", ".arrow": "arrow"}  # ending -> builder of `datasets`


@dataclass(eq=False, kw_only=True)
class RandomAccess(ImageSource):
    """Base of sources whose library gives item i; a subclass says how a split is opened, in `opened`.

    Args:
        path: see the subclass.
        test_path: likewise, for the held-out images; None for none.
        image_key, label_key: of an item's image and label; without a label, items have none.
        window: shuffle in windows of so many images, shard after shard; None: an epoch is a permutation. See `data.order`.
        look_at: how many items, evenly spaced, tell shape, channels, classes, standard deviation and fingerprint.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("path",)  # the images themselves are compared

    path: str | Path
    test_path: str | Path | None = None
    image_key: str = "image"
    label_key: str = "label"
    window: int | None = None
    look_at: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window", "look_at"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{self.name}: {name} must be at least 1, got {value}")

    def opened(self, path: str | Path, *, is_test: bool) -> tuple[MapStyle, Sequence[int]]:
        """The items of a path, and how many there are in each of its shards."""
        raise NotImplementedError

    def load(self) -> tuple["ShardItems", "ShardItems | None"]:
        train = self._items(self.path, self.reading(self.channels), self.classes, is_test=False)
        if self.test_path is None:
            return train, None
        reading = replace(train.reading, channels=train.shape[0] if len(train.shape) == 3 else self.channels)
        return train, self._items(self.test_path, reading, train.num_classes, is_test=True)

    def _items(self, path: str | Path, reading: Reading, classes: int, *, is_test: bool) -> "ShardItems":
        dataset, sizes = self.opened(path, is_test=is_test)
        return ShardItems(dataset, reading, (self.image_key, self.label_key), classes, self.look_at, self.window, sizes)


class ShardItems(Items):
    """Items that lie in shards; arguments as for `Items` and `RandomAccess`."""

    def __init__(
        self,
        dataset: MapStyle,
        reading: Reading,
        keys: tuple[str, str],
        classes: int,
        look_at: int,
        window: int | None,
        sizes: Sequence[int],
    ):
        self.window, self.sizes = window, list(sizes)
        super().__init__(dataset, reading, *keys, classes, look_at)

    def order(self, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
        """The items of an epoch, in the order in which training sees them."""
        if self.window is None:
            return order.full(seed, epoch, len(self))
        return order.windowed(seed, epoch, self.sizes, self.window)


@dataclass(eq=False, kw_only=True)
class Datasets(RandomAccess):
    """A data set of Hugging Face's `datasets`: memory-mapped, so that it may be larger than memory. Needs that library.

    Args:
        path: a folder of `save_to_disk`, a folder of or one .parquet or .arrow file (from which the library makes a mapped copy
            in its cache, once), or a name on the hub, which is downloaded where there is a network.
        split, test_split: of a data set that has several; with `test_split`, held-out images come from `path`, too.
        config: name of a configuration on the hub.
    """

    split: str = "train"
    test_split: str | None = None
    config: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_split is not None and self.test_path is None:
            self.test_path = self.path

    def opened(self, path: str | Path, *, is_test: bool) -> tuple[MapStyle, Sequence[int]]:
        datasets = required("datasets", "Datasets")
        split = self.test_split if is_test and self.test_split else self.split
        found: Any = _read(datasets, str(path), split, self.config)
        if isinstance(found, Mapping):
            if split not in found:
                raise UserError(f"{path}: has no split {split!r}; it has {', '.join(map(str, found))}")
            found = found[split]
        if self.image_key not in found.column_names:
            raise UserError(
                f"{path}: has no column {self.image_key!r}; its columns are {', '.join(found.column_names)}: set image_key"
            )
        keys = [key for key in (self.image_key, self.label_key) if key in found.column_names]
        return _Columns(found, keys, str(path)), [len(found)]


class _Columns:
    """A data set of `datasets` of which items have these columns, and captions may be in another."""

    source_name = "Datasets"

    def __init__(self, whole: Any, keys: Sequence[str], path: str):
        self._whole, self._chosen, self._path = whole, whole.select_columns(list(keys)), path

    def __len__(self) -> int:
        return len(self._whole)

    def __getitem__(self, i: int) -> object:
        return self._chosen[i]

    def __getitems__(self, indices: Sequence[int]) -> list[object]:
        found: list[object] = self._chosen.__getitems__(list(indices))
        return found

    @property
    def features(self) -> object:
        return self._chosen.features

    def column_of(self, key: str) -> Sequence[object]:
        """UserError where there is none."""
        if key not in self._whole.column_names:
            raise UserError(
                f"{self._path}: has no column {key!r} for captions; its columns are {', '.join(self._whole.column_names)}"
            )
        column: Sequence[object] = self._whole.select_columns([key])[:][key]
        return column


def _read(datasets: Any, path: str, split: str, config: str | None) -> Any:
    """Whatever a path or a name on the hub holds."""
    place = Path(path).expanduser()
    try:
        if place.is_dir() and ((place / "state.json").exists() or (place / "dataset_dict.json").exists()):
            return datasets.load_from_disk(str(place))
        files = [place] if place.is_file() else sorted(place.rglob("*")) if place.is_dir() else []
        files = [file for file in files if file.suffix in FILES]
        if place.exists():
            if not files:
                raise UserError(f"{path}: holds no .parquet or .arrow files and is no folder of save_to_disk")
            kind = FILES[files[0].suffix]
            chosen = [str(file) for file in files if file.suffix == files[0].suffix]
            return datasets.load_dataset(kind, data_files={split: chosen}, split=split)
        return datasets.load_dataset(path, config, split=split)
    except UserError:
        raise
    except Exception as error:  # of arrow, of the hub, of the network
        what = " ".join(str(error).split())[:200]
        if place.exists():
            raise UserError(f"{path}: cannot be read: {type(error).__name__}: {what}") from error
        raise NotHereError(
            f"{path}: no such folder, and the hub cannot give it: {type(error).__name__}: {what}"
        ) from error


@dataclass(eq=False, kw_only=True)
class LitData(RandomAccess):
    """A data set that `litdata.optimize` wrote, local or remote (s3://, gs://): chunks, of which items are read by number.

    Remote chunks are downloaded whole, into a cache of the library's; with `window` few are needed at a time. Needs litdata.

    Args:
        path: of the folder with index.json.
        max_cache_size: of downloaded chunks, "100GB" for instance.
    """

    max_cache_size: str = "100GB"

    def opened(self, path: str | Path, *, is_test: bool) -> tuple[MapStyle, Sequence[int]]:
        return _LitItems(str(path), self.max_cache_size), _chunks(str(path), self.max_cache_size)


class _LitItems:
    """Item i of all chunks, whoever asks; one reader for each process."""

    source_name = "LitData"

    def __init__(self, path: str, max_cache_size: str):
        self.path, self.max_cache_size = path, max_cache_size
        self._reader: Any = None
        self._process = -1
        self._count = sum(_chunks(path, max_cache_size))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> object:
        if self._process != os.getpid():
            self._reader, self._process = _streaming(self.path, self.max_cache_size), os.getpid()
        return self._reader[i]

    def __getitems__(self, indices: Sequence[int]) -> list[object]:
        """In the order in which they lie: the library keeps one chunk open, and opening one costs as much as reading an item."""
        found = {i: self[i] for i in sorted(set(indices))}
        return [found[i] for i in indices]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None, "_process": -1}


def _streaming(path: str, max_cache_size: str) -> Any:
    litdata = required("litdata", "LitData")
    try:
        return litdata.StreamingDataset(path, shuffle=False, max_cache_size=max_cache_size)
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read by litdata: {type(error).__name__}: {what}") from error


def _chunks(path: str, max_cache_size: str) -> list[int]:
    """Items in each chunk."""
    index = Path(path).expanduser() / "index.json"
    if "://" not in path:
        if not index.is_file():
            raise NotHereError(f"{index}: no such file; litdata.optimize writes it (looked for it in {Path.cwd()})")
        try:
            return [int(chunk["chunk_size"]) for chunk in json.loads(index.read_text(encoding="utf-8"))["chunks"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{index}: is no index of litdata: {error!r}") from error
    reader = _streaming(path, max_cache_size)
    _ = reader[0]
    return [int(interval[2] - interval[1]) for interval in reader.cache.get_chunk_intervals()]
