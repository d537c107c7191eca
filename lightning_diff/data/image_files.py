"""Image files in a folder or a zip: their names, their bytes, their labels."""

import re
import zipfile
import zlib
from itertools import takewhile
from pathlib import Path

from ..foundation.errors import NotHereError, UserError
from .decode import shown
from .formats import SUFFIXES
from .label_file import LabelFile
from .listing import LABEL_FILE, of_folder, of_zip

MOST_BYTES = 2**31  # of one file of a zip, unpacked
# What zipfile raises for damaged, encrypted and unknown things, beside what reading raises.
UNREADABLE = (OSError, RuntimeError, NotImplementedError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class ImageFiles:
    """The images of a folder or zip, at any depth, sorted by name; hidden files and other kinds are passed over.

    Args:
        path: the folder or zip.

    Raises:
        UserError: nothing there, neither folder nor zip, unreadable, or no image in it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.zip: zipfile.ZipFile | None = None
        self.where = shown(str(self.path))
        try:
            if self.path.is_dir():
                self.listing = of_folder(self.path)
            else:
                self.zip = zipfile.ZipFile(self.path)
                self.listing = of_zip(self.zip)
        except FileNotFoundError:
            raise NotHereError(f"{self.where}: no such folder or zip (looked for it in {Path.cwd()})") from None
        except UNREADABLE as error:
            raise UserError(f"{self.where}: cannot be read as a folder or a zip of images: {error}") from None
        self.names = self.listing.images
        if not self.names:
            there = "".join(f"; {note}" for note in self.listing.notes())
            raise UserError(f"{self.where}: holds no images ({', '.join(SUFFIXES)}){there}")

    def bytes(self, name: str) -> bytes:
        if self.zip is None:
            return (self.path / name).read_bytes()
        stored = self.listing.stored.get(name, name)
        if (size := self.zip.getinfo(stored).file_size) > MOST_BYTES:
            raise ValueError(f"would take {size:,} bytes unpacked")
        return self.zip.read(stored)

    @property
    def depth(self) -> int:
        """How many folders all images share."""
        parents = [name.split("/")[:-1] for name in self.names]
        return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False)))

    def label_file(self) -> LabelFile | None:
        """The dataset.json at the top or in a folder that all images share; None if there is none.

        Raises:
            UserError: there are some only in folders that hold a part of the images; it cannot be read.
        """
        there, shared = self.listing.label_files, self.names[0].split("/")[: self.depth]
        for depth in range(len(shared) + 1):
            if (name := "/".join([*shared[:depth], LABEL_FILE])) in there:
                return self._read(name, depth)
        if not there:
            return None
        first = shown(there[0].rpartition("/")[0])
        others = f" and {len(there) - 1} more label files are" if len(there) > 1 else " is"
        raise UserError(
            f"{self.where}: {first}/{LABEL_FILE}{others} in a folder that does not hold all images; set path to "
            f"{self.where}/{first} for these alone, or labels to folders"
        )

    def _read(self, name: str, depth: int) -> LabelFile:
        try:
            content = self.bytes(name)
        except UNREADABLE as error:
            raise UserError(f"{self.where}: {shown(name)} is damaged or cannot be read: {error}") from None
        return LabelFile(self.where, shown(name), content, depth)

    def folders(self, known: frozenset[str] = frozenset(), *, shards: bool = False) -> list[str] | None:
        """The folder of each image, below what all share; None unless there are several and each image lies in one.

        Args:
            known: names that folders of the training set have: the first level that has no others is taken.
            shards: take numbered folders, too, which hold so many images each.
        """
        parents = [name.split("/")[:-1] for name in self.names]
        for level in zip(*parents, strict=False):
            if known and set(level) <= known:
                return list(level)
        shared = self.depth
        if any(len(parent) == shared for parent in parents):
            return None
        folders = [parent[shared] for parent in parents]
        return None if not shards and self._are_shards(folders) else folders

    def _are_shards(self, folders: list[str]) -> bool:
        """Whether folders are numbered ones of a tool that puts so many images into each (EDM's, FFHQ's, img2dataset's).

        Their names are numbers of five or more digits, and no name of a file occurs in two of them or begins with its
        folder's, as those of numbered classes do.
        """
        if not all(re.fullmatch(r"\d{5,}", folder) for folder in set(folders)):
            return False
        stems = [Path(name).stem for name in self.names]
        if len(set(stems)) < len(stems):
            return False
        return not all(re.match(rf"{folder}\D", stem) for folder, stem in zip(folders, stems, strict=True))
