"""Image files in a folder or a zip: their names, their bytes, their labels."""

import json
import os
import re
import zipfile
from itertools import takewhile
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from ..foundation.errors import UserError
from .decode import SUFFIXES, some

LABEL_FILE = "dataset.json"


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
        try:
            if self.path.is_dir():
                every = _walk(self.path)
            else:
                self.zip = zipfile.ZipFile(self.path)
                every = self.zip.namelist()
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such folder or zip (looked for it in {Path.cwd()})") from None
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{self.path}: cannot be read as a folder or a zip of images: {error}") from None
        self.names = sorted(name for name in every if name.lower().endswith(SUFFIXES) and not _hidden(name))
        self.has_label_file = LABEL_FILE in every
        if not self.names:
            raise UserError(f"{self.path}: holds no images ({', '.join(SUFFIXES)})")

    def bytes(self, name: str) -> bytes:
        return (self.path / name).read_bytes() if self.zip is None else self.zip.read(name)

    def labels(self) -> tuple[Int64[Tensor, " n"], int] | None:
        """The class of each image from `dataset.json`, and the number of classes; None if there are no labels."""
        if not self.has_label_file:
            return None
        where = f"{self.path}: {LABEL_FILE}"
        try:
            entries = json.loads(self.bytes(LABEL_FILE))["labels"]
            pairs = {str(name).replace("\\", "/"): label for name, label in entries or []}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f'{where} is not of the form {{"labels": [[name, class], ...]}}: {error!r}') from None
        if entries is None:
            return None
        if missing := [name for name in self.names if name not in pairs]:
            raise UserError(f"{where} has no label for {some(missing)} (of {len(self.names)} images)")
        if wrong := [name for name in self.names if not _is_class(pairs[name])]:
            named = [f"{name} ({pairs[name]!r})" for name in wrong]
            raise UserError(f"{where} has labels that are no whole numbers >= 0: {some(named)}")
        labels = torch.tensor([pairs[name] for name in self.names])
        return labels, int(labels.max()) + 1

    def folders(self) -> list[str] | None:
        """The folder of each image, below what all share; None unless there are several and each image lies in one."""
        if all(re.fullmatch(r"\d{5}/img\d{8}\.\w+", name) for name in self.names):
            return None  # EDM's numbered folders are no classes
        parents = [name.split("/")[:-1] for name in self.names]
        shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False)))
        if any(len(parent) == shared for parent in parents):
            return None
        return [parent[shared] for parent in parents]


def _walk(root: Path) -> list[str]:
    def fail(error: OSError) -> None:
        raise error

    return [
        (Path(folder) / file).relative_to(root).as_posix()
        for folder, _, files in os.walk(root, onerror=fail, followlinks=True)
        for file in files
    ]


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _is_class(label: object) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0
