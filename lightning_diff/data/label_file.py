"""EDM's dataset.json: {"labels": [[name, class], ...]}, names relative to its folder, and perhaps the classes' names."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TypeGuard

from ..foundation.errors import UserError
from .class_names import of_label_file
from .decode import shown, some


class LabelFile:
    """A label file that was read.

    Args:
        where: the folder or zip, for messages.
        name: of the file in there.
        content: its bytes.
        depth: how many folders the names of its images are below the top of the data set.

    Raises:
        UserError: it has another form.
    """

    def __init__(self, where: str, name: str, content: bytes, depth: int):
        self.where, self.name, self.depth = f"{where}: {name}", name, depth
        self.by_name: dict[str, object] | None = None
        self.unused = 0  # labels of files that are not there, known after `labels`
        try:
            read = json.loads(content)
            entries = read["labels"]
            pairs = [(_plain(str(key)), label) for key, label in entries or []]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f'{self.where} is not of the form {{"labels": [[name, class], ...]}}: {error!r}') from None
        self.class_names = of_label_file(read)
        if entries is None:
            return
        self.by_name = {}
        for key, label in pairs:
            if self.by_name.setdefault(key, label) != label:
                raise UserError(f"{self.where} has two labels for {shown(key)}: {self.by_name[key]!r} and {label!r}")

    def labels(self, names: Sequence[str], shared: int) -> list[int] | None:
        """Of these images, named from the top of the data set; None where the file says that there are no labels.

        Args:
            names: of the images.
            shared: how many folders they all lie in.

        Raises:
            UserError: images without a label, or with one that is no whole number >= 0.
        """
        if self.by_name is None:
            return None
        keys = [next((key for key in self._keys(name, shared) if key in self.by_name), None) for name in names]
        if missing := [name for name, key in zip(names, keys, strict=True) if key is None]:
            raise UserError(f"{self.where} has no label for {some(missing)} (of {len(names)} images)")
        self.unused = len(self.by_name) - len(set(keys))
        labels = [self.by_name[key] for key in keys if key is not None]
        classes = [label for label in labels if _is_class(label)]
        if len(classes) < len(labels):
            wrong = [f"{name} ({label!r})" for name, label in zip(names, labels, strict=True) if not _is_class(label)]
            raise UserError(f"{self.where} has labels that are no whole numbers >= 0: {some(wrong)}")
        return classes

    def _keys(self, name: str, shared: int) -> Iterator[str]:
        """Under which the file may have an image: relative to its own folder, or to another that all images lie in."""
        parts = name.split("/")
        for depth in (self.depth, *range(shared + 1)):
            tail = "/".join(parts[depth:])
            yield _plain(tail)
            yield _plain(_utf8(tail))


def _plain(name: str) -> str:
    """One form of a name for comparisons: "/" between folders, accents composed (macOS takes them apart)."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def _utf8(name: str) -> str:
    """The name in a zip whose packer wrote UTF-8 without saying so, which Python reads as code page 437."""
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _is_class(label: object) -> TypeGuard[int]:
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0
