"""Which files of a folder or zip are images of the data set, and what was passed over: thumbnails, hidden files, other kinds."""

import os
import zipfile
from collections import Counter, deque
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from .decode import shown, some
from .formats import SUFFIXES

LABEL_FILE = "dataset.json"

# Folders in which systems keep thumbnails and what was deleted: Synology, QNAP, Windows, Unix.
SYSTEM_FOLDERS = (
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "desktop.ini",
)
Key = tuple[int, int]  # device and inode: what a file is, whatever its name


class Listing:
    """Files by name, relative to the folder or zip, "/" between folders.

    Attributes:
        images: sorted.
        label_files: every dataset.json.
        folders: all but hidden ones.
        stored: the names that the zip itself uses, where they differ.
        passed_over: how many files of what kind are no images of the set.
    """

    def __init__(self) -> None:
        self.images: list[str] = []
        self.label_files: list[str] = []
        self.folders: set[str] = set()
        self.stored: dict[str, str] = {}
        self.passed_over: Counter[str] = Counter()
        self._hidden: set[str] = set()

    def add(self, name: str) -> None:
        parts = name.split("/")
        for depth, part in enumerate(parts):
            if is_hidden(part):
                self.hide("/".join(parts[: depth + 1]))
                return
        if name.lower().endswith(SUFFIXES):
            self.images.append(name)
        elif parts[-1] == LABEL_FILE:
            self.label_files.append(name)
        else:
            self.passed_over[Path(parts[-1]).suffix.lower() or "without suffix"] += 1

    def hide(self, name: str) -> None:
        """Pass over a hidden file, or all of a hidden folder."""
        if name not in self._hidden:
            self._hidden.add(name)
            self.passed_over["hidden or of thumbnails"] += 1

    def done(self) -> "Listing":
        self.images.sort()
        self.label_files.sort()
        return self

    def bare(self) -> list[str]:
        """The folders without an image that lie in one with images: a class, perhaps, whose images are missing."""
        filled = {
            "/".join(parts[:depth])
            for name in self.images
            for parts in [name.split("/")]
            for depth in range(len(parts))
        }
        return sorted(name for name in self.folders - filled if name.rpartition("/")[0] in filled)

    def notes(self) -> list[str]:
        """What was passed over, in words."""
        bare = self.bare()
        empty = [f"no image in folder{'s' * (len(bare) > 1)} {some(bare)}"] if bare else []
        kinds = [f"{count:,} {shown(kind)}" for kind, count in self.passed_over.most_common()]
        more = f" and {len(kinds) - 6} more kinds" if len(kinds) > 6 else ""
        return [*empty, *([f"passed over {', '.join(kinds[:6])}{more}"] if kinds else [])]


def is_hidden(part: str) -> bool:
    return part.startswith((".", "__MACOSX")) or part.lower() in SYSTEM_FOLDERS


def of_zip(archive: zipfile.ZipFile) -> Listing:
    """The files of a zip; of several entries of one name the last, as every unpacker leaves it."""
    listing = Listing()
    for stored in dict.fromkeys(archive.namelist()):
        name = stored.replace("\\", "/").removeprefix("./")  # some zips of Windows
        if name.endswith("/"):
            if not any(map(is_hidden, name.split("/"))):
                listing.folders.add(name[:-1])
        else:
            listing.add(name)
            if name != stored:
                listing.stored[name] = stored
    return listing.done()


def of_folder(root: Path) -> Listing:
    """The files below a folder, links followed, every real file once.

    Raises:
        OSError: a folder that cannot be read.
    """
    walk = _Walk()
    walk.enter(str(root), "")
    while walk.links:
        walk.follow(*walk.links.popleft())
    return walk.listing.done()


class _Walk:
    """Through folders first, then through the links in them, which may lead to what was seen already, or in circles."""

    def __init__(self) -> None:
        self.listing = Listing()
        self.links: deque[tuple[str, str]] = deque()  # (path, name)
        self.seen: set[Key] = set()

    def enter(self, folder: str, prefix: str) -> None:
        waiting = [(folder, prefix)]
        while waiting:
            path, start = waiting.pop()
            if start:
                self.listing.folders.add(start[:-1])
            here = os.stat(path)
            self.seen.add((here.st_dev, here.st_ino))
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                name = start + entry.name
                if is_hidden(entry.name):
                    self.listing.hide(name)
                elif entry.is_symlink():
                    self.links.append((entry.path, name))
                elif entry.is_dir():
                    waiting.append((entry.path, f"{name}/"))
                elif entry.is_file():
                    self.seen.add((here.st_dev, entry.inode()))
                    self.listing.add(name)
                else:  # a pipe would be waited for without end
                    self.listing.passed_over["no regular file"] += 1

    def follow(self, path: str, name: str) -> None:
        try:
            there = os.stat(path)
        except OSError:  # to nowhere: reading it fails, with its name, if it should be an image
            self.listing.add(name)
            return
        key = (there.st_dev, there.st_ino)
        if key in self.seen:
            self.listing.passed_over["links to what is counted already"] += 1
        elif S_ISDIR(there.st_mode):
            self.enter(path, f"{name}/")
        elif S_ISREG(there.st_mode):
            self.seen.add(key)
            self.listing.add(name)
        else:
            self.listing.passed_over["no regular file"] += 1
