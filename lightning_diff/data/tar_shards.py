"""The samples of many tar shards as one map-style dataset: image number i, read from its place."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ..foundation import caches, stopping
from ..foundation.errors import UserError
from ..foundation.processes import is_first_process
from ..foundation.progress import stage
from . import tar_index
from .tar_index import TarIndex

READERS = min(
    8, os.cpu_count() or 1
)  # of indices that are there; one that is not is built by one process after another


class TarShards:
    """Images and labels of tar shards, numbered through all of them.

    Only the places of the images are in memory, some 32 bytes and the name for each; a shard's index is read from beside it, or
    built. An item is {"image": encoded bytes, "label": number}, without a label where no sample has one.

    Args:
        shards: at least one, in their order.
        label_key: of the label in a sample's .json.

    Raises:
        UserError: a shard that is no tar, is damaged or has no images, or only some samples with labels.
    """

    def __init__(self, shards: Sequence[Path], label_key: str = "label"):
        self.shards = tuple(shards)
        self.remarks: list[str] = []
        indices = self._indices(label_key)
        for shard, index in zip(self.shards, indices, strict=True):
            if not len(index):
                raise UserError(f"{shard}: holds no images; members are named NAME.jpg, NAME.cls")
        self.sizes = [len(index) for index in indices]
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self._index = indices
        label = np.concatenate([index.label for index in indices])
        self.labelled = bool((label >= 0).any())
        if self.labelled and (bare := np.flatnonzero(label < 0)).size:
            raise UserError(f"{self.name_of(int(bare[0]))}: has no label, and others have one")
        self._label = label
        self._open: dict[int, int] = {}  # file descriptors by shard, of this process
        self._process = os.getpid()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> dict[str, object]:
        shard, row = self._locate(i)
        content = tar_index.content_at(self.shards[shard], self._index[shard].place(row), self._descriptor(shard))
        return {"image": content, "label": int(self._label[i])} if self.labelled else {"image": content}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    @property
    def labels(self) -> Int64[np.ndarray, " n"] | None:
        """Of all images, without reading any."""
        return self._label if self.labelled else None

    def name_of(self, i: int) -> str:
        """Shard and sample of an image, for messages."""
        shard, row = self._locate(i)
        return f"{self.shards[shard]}: {self._index[shard].names[row]}"

    def column_of(self, key: str) -> list[object]:
        """Of each sample the text of its .txt, or what its .json has under another key; None where there is none.

        Raises:
            UserError: one that is no text in UTF-8, or no JSON.
        """
        return [self._beside(tar_index.TEXT if key == "txt" else tar_index.RECORD, key, i) for i in range(len(self))]

    def _beside(self, ending: str, key: str, i: int) -> object:
        shard, row = self._locate(i)
        place = self._index[shard].beside(ending, row)
        if place is None or place.size > tar_index.LARGEST_RECORD:
            return None
        content = tar_index.content_at(self.shards[shard], place, self._descriptor(shard))
        try:
            text = content.decode("utf-8-sig")
            found = text if ending == tar_index.TEXT else json.loads(text)
        except ValueError as error:
            kind = "text in UTF-8" if ending == tar_index.TEXT else "JSON"
            raise UserError(f"{self.name_of(i)}{ending}: is no {kind}: {error}") from error
        return found if ending == tar_index.TEXT else found.get(key) if isinstance(found, dict) else None

    def fingerprint(self) -> str:
        """sha256 of names, places and labels; costs no reading of images."""
        digest = hashlib.sha256(str(len(self)).encode())
        for index in self._index:
            digest.update("\n".join(index.names).encode())
            for column in (index.size, index.label):
                digest.update(column.tobytes())
        return digest.hexdigest()

    def _locate(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        shard = int(np.searchsorted(self._starts, i, side="right")) - 1
        return shard, i - int(self._starts[shard])

    def _descriptor(self, shard: int) -> int:
        if self._process != os.getpid():  # a worker's: descriptors are shared with the parent, and their table is not
            self._open, self._process = {}, os.getpid()
        if shard not in self._open:
            try:
                self._open[shard] = os.open(self.shards[shard], os.O_RDONLY)
            except OSError as error:
                raise UserError(f"{self.shards[shard]}: cannot be read: {error.strerror}") from error
        return self._open[shard]

    # --- indices ---

    def _indices(self, label_key: str) -> list[TarIndex]:
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(lambda shard: _known(shard, label_key), self.shards))
        missing = [i for i, index in enumerate(found) if index is None]
        with stage("indexing", len(missing), "shard", shown=bool(missing) and is_first_process()) as bar:
            for i in missing:
                stopping.check()
                found[i] = self._built(self.shards[i], label_key)
                bar.advance()
        return [index for index in found if index is not None]

    def _built(self, shard: Path, label_key: str) -> TarIndex:
        there = [path for path in _places(shard) if path.exists()]
        why = next(filter(None, map(tar_index.newer_in, there)), "was of another version or label_key")
        index = tar_index.build(shard, label_key)
        if any(tar_index.state_in(path) == index.state for path in there):
            self.remarks.append(f"the index of {shard.name} {why}, and was built again")
        elif there:
            self.remarks.append(f"{shard.name} changed under its index, which was built again")
        for path in _places(shard):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                tar_index.write(path, index, label_key)
            except OSError:
                continue
            return index
        self.remarks.append(f"the index of {shard.name} can be written nowhere, and is built again at every start")
        return index


def _places(shard: Path) -> list[Path]:
    """Where an index may be: beside its shard, or in the cache where nothing can be written there."""
    key = hashlib.sha256(str(shard.absolute()).encode()).hexdigest()[:16]
    return [
        shard.with_name(shard.name + tar_index.ENDING),
        caches.folder()[0] / "tar" / f"{shard.name}.{key}{tar_index.ENDING}",
    ]


def _known(shard: Path, label_key: str) -> TarIndex | None:
    """An index that is there and of this shard as it is."""
    state = tar_index.state_of(shard)
    for path in _places(shard):
        index = tar_index.read(path, label_key)
        if index is not None and index.state == state:
            return index
    return None
