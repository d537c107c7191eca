"""Where each sample lies in a tar shard: an index beside it, built once, by which it is read from any place.

A shard is what WebDataset writes: the members of a sample follow each other and have one name up to the first dot of the last part,
and an ending each: "train/000012.jpg", "train/000012.cls". The index is an .npz file with the shard's name and `.index.npz`.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Int64

from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from ..foundation.formats import newer
from .formats import SUFFIXES

FORMAT = 2  # 1 had no captions
ENDING = ".index.npz"
CLASS, RECORD, TEXT = (
    ".cls",
    ".json",
    ".txt",
)  # members beside an image: a number; a mapping, with a label perhaps; a caption
LARGEST_RECORD = 1 << 20  # bytes of a member with a label or a caption; more is neither


class Place(NamedTuple):
    """Of a member in a shard, in bytes."""

    start: int
    size: int


@dataclass(frozen=True)
class TarIndex:
    """The samples of one shard that have an image, in their order.

    Args:
        start, size: of the image in the tar, bytes.
        label: whole numbers; -1 where there is none.
        names: of the samples, for messages.
        state: size and modification time, in nanoseconds, of the tar that it is of.
        text, record: start and size of each sample's .txt and .json, -1 where it has none; no rows where none of them has one.
    """

    start: Int64[np.ndarray, " n"]
    size: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"]
    names: tuple[str, ...]
    state: tuple[int, int]
    text: Int64[np.ndarray, "texts 2"]
    record: Int64[np.ndarray, "records 2"]

    def __len__(self) -> int:
        return len(self.start)

    def place(self, i: int) -> Place:
        return Place(int(self.start[i]), int(self.size[i]))

    def beside(self, ending: str, i: int) -> Place | None:
        """Of the .txt or .json of sample i; None where it has none."""
        places = self.text if ending == TEXT else self.record
        return Place(*places[i].tolist()) if len(places) and places[i, 0] >= 0 else None


def state_of(shard: Path) -> tuple[int, int]:
    """Size and modification time of a shard. UserError for one that cannot be looked at."""
    try:
        found = shard.stat()
    except OSError as error:
        raise UserError(f"{shard}: cannot be read: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns


def build(shard: Path, label_key: str) -> TarIndex:
    """Read the headers of a shard, and its labels.

    Raises:
        UserError: no tar file, one that is cut short, compressed, or a label that is no whole number; shard and member are named.
    """
    state = state_of(shard)
    start, size, labels, names = [], [], [], []
    beside: dict[str, list[Place]] = {TEXT: [], RECORD: []}
    try:
        with tarfile.open(shard, "r:") as tar:
            for name, members in _samples(tar):
                image = next((each for ending, each in members.items() if ending in SUFFIXES), None)
                if image is None:
                    continue
                start.append(image.offset_data)
                size.append(image.size)
                names.append(name)
                labels.append(_label(tar, shard, members, label_key))
                for ending, places in beside.items():
                    member = members.get(ending)
                    places.append(Place(-1, -1) if member is None else Place(member.offset_data, member.size))
    except tarfile.TarError as error:
        raise UserError(f"{shard}: cannot be read as a tar file (a compressed one cannot): {error}") from error
    except OSError as error:
        raise UserError(f"{shard}: cannot be read: {error}") from error
    if size and start[-1] + size[-1] > state[0]:
        raise UserError(f"{shard}: is cut short in {names[-1]}; copy it again")
    starts, sizes, classes = (np.array(column, np.int64) for column in (start, size, labels))
    text, record = (_places(beside[ending]) for ending in (TEXT, RECORD))
    return TarIndex(starts, sizes, classes, tuple(names), state, text, record)


def _places(found: list[Place]) -> Int64[np.ndarray, "m 2"]:
    places = np.array(found, np.int64).reshape(-1, 2)
    return places if (places >= 0).any() else places[:0]


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Name and members by ending, lower case; hidden files and what macOS adds are passed over."""
    name, members = "", dict[str, tarfile.TarInfo]()
    for member in tar:
        folder, _, last = member.name.rpartition("/")
        if not member.isfile() or last.startswith(".") or "__MACOSX" in folder.split("/"):
            continue
        stem, dot, ending = last.partition(".")
        own = f"{folder}/{stem}" if folder else stem
        if own != name:
            if members:
                yield name, members
            name, members = own, {}
        members[f"{dot}{ending}".lower()] = member
    if members:
        yield name, members


def _label(tar: tarfile.TarFile, shard: Path, members: dict[str, tarfile.TarInfo], label_key: str) -> int:
    """-1 for none."""
    for ending in (CLASS, RECORD):
        if (member := members.get(ending)) is None or member.size > LARGEST_RECORD:
            continue
        file = tar.extractfile(member)
        content = b"" if file is None else file.read()
        try:
            found = json.loads(content)
        except ValueError as error:
            raise UserError(f"{shard}: {member.name}: is no number and no JSON: {content[:40]!r}") from error
        if ending == RECORD:
            if not isinstance(found, dict) or label_key not in found:
                continue
            found = found[label_key]
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise UserError(f"{shard}: {member.name}: the label {found!r} is no whole number >= 0")
        return found
    return -1


def write(path: Path, index: TarIndex, label_key: str) -> None:
    """Whole or not at all; OSError where it cannot be written."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            format=np.int64(FORMAT),
            label_key=np.array(label_key),
            state=np.array(index.state, np.int64),
            start=index.start,
            size=index.size,
            label=index.label,
            names=np.frombuffer("\n".join(index.names).encode(), np.uint8),
            text=index.text,
            record=index.record,
        )


def read(path: Path, label_key: str) -> TarIndex | None:
    """None for one that is not there, damaged, of another format, or made for another label."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            if int(found["format"]) != FORMAT or str(found["label_key"]) != label_key:
                return None
            names = tuple(found["names"].tobytes().decode().split("\n")) if len(found["start"]) else ()
            starts, sizes, classes = (found[name].astype(np.int64) for name in ("start", "size", "label"))
            size, modified = found["state"].tolist()
            text, record = (found[name].astype(np.int64) for name in ("text", "record"))
            index = TarIndex(starts, sizes, classes, names, (size, modified), text, record)
    except (OSError, ValueError, KeyError, EOFError, UnicodeDecodeError, BadZipFile):
        return None
    is_whole = len(index) == len(index.size) == len(index.label) == len(names)
    return index if is_whole and all(len(each) in (0, len(index)) for each in (text, record)) else None


def state_in(path: Path) -> tuple[int, int] | None:
    """Of the tar that the index in a file is of, whatever its format and label; None where that cannot be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            size, modified = found["state"].tolist()
            return size, modified
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def newer_in(path: Path) -> str:
    """What is to be said of the index in a file, if a newer version wrote it; "" of others."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return newer(int(found["format"]), FORMAT) if int(found["format"]) > FORMAT else ""
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return ""


def content_at(shard: Path, place: Place, descriptor: int) -> bytes:
    """The bytes of an image. UserError for a shard that ends before."""
    content = os.pread(descriptor, place.size, place.start)
    if len(content) != place.size:
        raise UserError(
            f"{shard}: ends before byte {place.start + place.size:,}; it changed under the run: start again"
        )
    return content
