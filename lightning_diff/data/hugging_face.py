"""A downloaded Hugging Face image dataset: parquet files with encoded images, decoded once."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from ..foundation.errors import NotHereError, UserError
from ..foundation.extras import required
from . import class_names
from .classes import counted, gaps, relabelled
from .decode import count_channels, decode, shown, some
from .decoded.entry import Decoded, Sets
from .decoded.stored_images import StoredImages
from .decoded.stores import InMemory, MakeStore
from .image_set import Origin
from .label_values import Classes, known_labels, numbered
from .listing import is_hidden


@dataclass(eq=False, kw_only=True)
class HuggingFace(StoredImages):
    """Parquet files as the Hugging Face hub keeps them, read without its `datasets` library; needs pyarrow.

    Nothing is downloaded here: fetch the files first (`hf download --repo-type dataset OWNER/NAME --local-dir FOLDER`). For
    datasets that are already loaded as objects there is `MapDataset`.

    Args:
        path: a folder with .parquet files at any depth, or one such file.
        image_column: its values are encoded images: bytes, or {"bytes": ..., "path": ...}; a path without bytes names a file, seen
            from the folder of the parquet file.
        label_column: of whole numbers >= 0, or of the classes' names, which are numbered in alphabetical order; None for no labels.
        split: in a folder, train with the files whose name or folder begins with this word.
        test_split: likewise for the held-out images; None for none.
        relabel: number the labels 0, 1, ... in increasing order: for ids, and labels that count from 1.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("path", "relabel")  # the images themselves are compared

    image_column: str = "image"
    label_column: str | None = "label"
    split: str = "train"
    test_split: str | None = None
    relabel: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._elsewhere = False  # whether images lie outside of the parquet files

    def files(self) -> list[Path]:
        return [Path(self.path).expanduser()]

    def decoded(self, store: Callable[[str], MakeStore]) -> Sets:
        encoded, labels, names, by_name = self._encoded(self.split)
        if self._elsewhere:  # where nobody would notice that they change
            store = _in_memory
        channels = self.channels or count_channels(list(encoded), encoded.__getitem__)
        occurring = sorted(set(labels or []))
        named = len(names) if by_name and not self.relabel else 0
        train = self._decoded(encoded, labels, names, occurring, channels, self.split, store, named=named)
        if self.test_split is None:
            return train, None
        held_out = self._encoded(self.test_split, None if labels is None else Classes(names, by_name))
        test = self._decoded(*held_out[:3], occurring, channels, self.test_split, store, classes=train.num_classes)
        return train, test

    def _encoded(
        self, split: str, training: Classes | None = None
    ) -> tuple[dict[str, bytes], list[int] | None, tuple[str, ...], bool]:
        """Encoded images by the names of their rows, labels, what the classes are called, and whether the labels are names."""
        parquet = required("pyarrow.parquet", "HuggingFace")
        ArrowException = required("pyarrow", "HuggingFace").ArrowException
        images: list[object] = []
        labels: list[object] = []
        names: tuple[str, ...] = ()
        columns = [self.image_column] + ([self.label_column] if self.label_column else [])
        for file in self._files(split):
            try:
                schema = parquet.read_schema(file)
                known = schema.names
                if missing := [column for column in columns if column not in known]:
                    raise UserError(f"{file}: has no column {missing[0]!r}; its columns are {', '.join(known)}")
                table = parquet.read_table(file, columns=columns)
            except (ArrowException, OSError) as error:
                raise UserError(f"{file}: cannot be read as a parquet file: {str(error).splitlines()[0]}") from None
            cells = table.column(self.image_column).to_pylist()
            self._elsewhere |= any(_is_path(cell) for cell in cells)
            images += [_encoded_image(cell, file, self.image_column) for cell in cells]
            if self.label_column:
                labels += table.column(self.label_column).to_pylist()
                names = names or class_names.of_parquet(schema.metadata, self.label_column)
        encoded = {f"{split} row {i}": image for i, image in enumerate(images) if isinstance(image, bytes)}
        if wrong := [name for i in range(len(images)) if (name := f"{split} row {i}") not in encoded]:
            raise UserError(f"{self.path}: column {self.image_column!r} holds no encoded image in {some(wrong)}")
        if not self.label_column:
            return encoded, None, (), False
        where = f"{self.path}: column {self.label_column!r}"
        plain = [int(label) if isinstance(label, bool) else label for label in labels]
        return encoded, *numbered(where, known_labels(where, plain, [*encoded]), names, training)

    def _files(self, split: str) -> list[Path]:
        path = Path(self.path).expanduser()
        if path.is_file():
            return [path]
        every = sorted(
            file for file in path.rglob("*.parquet") if not any(map(is_hidden, file.relative_to(path).parts))
        )
        if not every:
            raise NotHereError(
                f"{path}: no such file, or no folder with .parquet files (looked for it in {Path.cwd()})"
            )
        begins = re.compile(rf"{re.escape(split)}(?![a-z0-9])")
        chosen = [file for file in every if any(begins.match(part) for part in file.relative_to(path).parts)]
        if not chosen:
            names = some([file.relative_to(path).as_posix() for file in every])
            raise UserError(f"{path}: no .parquet file of split {split!r}; there are {names}")
        return chosen

    def _decoded(
        self,
        encoded: dict[str, bytes],
        labels: list[int] | None,
        names: tuple[str, ...],
        occurring: list[int],
        channels: int,
        split: str,
        store: Callable[[str], MakeStore],
        *,
        classes: int = 0,
        named: int = 0,
    ) -> Decoded:
        """One split.

        Args:
            encoded, labels, names: see `_encoded`.
            occurring: the labels that occur in training.
            channels, split: of the images.
            store: where their pixels go.
            classes: their number in training, where this is another split.
            named: how many names the labels are places among, 0 for none.
        """
        name = f"{shown(Path(self.path).name)} {split}"
        if not encoded:
            raise UserError(f"{name}: there are no images")
        make = store("train" if split == self.split else "test")
        decoded = decode(name, list(encoded), encoded.__getitem__, self.reading(channels), make)
        notes = decoded.notes
        count = 0
        if labels is not None:
            if self.relabel:
                labels = relabelled(name, labels, occurring)
                names = tuple(names[i] if i < len(names) else str(i) for i in occurring) if names else ()
            count = counted(name, labels, classes or self.classes or named)
            if not (classes or self.classes):
                notes += gaps(name, labels, count, by_name=named > 0)
        origin = Origin(shown(str(self.path)), f"column {self.label_column}" if labels else "", notes)
        return self.examples(decoded, None if labels is None else torch.tensor(labels), name, count, origin, names)


def _in_memory(split: str) -> MakeStore:
    return InMemory


def _is_path(cell: object) -> bool:
    """Whether a cell names a file in place of its bytes."""
    return isinstance(cell, dict) and cell.get("bytes") is None


def _encoded_image(cell: object, file: Path, column: str) -> object:
    """The bytes of a cell, or of the file that it names, as `Dataset.to_parquet` leaves them for a folder of images."""
    if not isinstance(cell, dict):
        return cell
    if cell.get("bytes") is not None or not isinstance(path := cell.get("path"), str):
        return cell.get("bytes")
    try:
        return (file.parent / path).read_bytes()  # an absolute path stands for itself
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{file}: column {column!r} holds paths without bytes, and {shown(path)} cannot be read ({reason}; looked for it in "
            f"{shown(str(file.parent))}); copy the images there, or write the file again with their bytes (datasets: embed_storage)"
        ) from None
