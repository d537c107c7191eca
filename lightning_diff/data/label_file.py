"""EDM's dataset.json: {"labels": [[name, class], ...]}, names relative to its folder, and perhaps the classes' names."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from ..foundation.errors import UserError
from .class_names import of_label_file
from .decode import shown, some
from .label_values import Labels, known_labels


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
            pairs = [(_plain(str(key)), label) for key, label in _pairs(entries)]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f'{self.where} is not of the form {{"labels": [[name, class], ...]}}: {error!r}') from None
        self.class_names = of_label_file(read)
        if entries is None:
            return
        self.by_name = {}
        for key, label in pairs:
            if self.by_name.setdefault(key, label) != label:
                raise UserError(f"{self.where} has two labels for {shown(key)}: {self.by_name[key]!r} and {label!r}")

    def labels(self, names: Sequence[str], shared: int) -> Labels | None:
        """Of these images, named from the top of the data set; None where the file says that there are no labels.

        They are all numbers, or all names of classes.

        Args:
            names: of the images.
            shared: how many folders they all lie in.

        Raises:
            UserError: images without a label, or with one that is neither a whole number >= 0 nor a name.
        """
        if self.by_name is None:
            return None
        keys = [next((key for key in self._keys(name, shared) if key in self.by_name), None) for name in names]
        if missing := [name for name, key in zip(names, keys, strict=True) if key is None]:
            raise UserError(f"{self.where} has no label for {some(missing)} (of {len(names)} images)")
        self.unused = len(self.by_name) - len(set(keys))
        return known_labels(self.where, [self.by_name[key] for key in keys if key is not None], names)

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


def _pairs(entries: object) -> list[tuple[object, object]]:
    """Name and label; [[name, class], ...] is EDM's form, {name: class} another that people write."""
    if isinstance(entries, Mapping):
        return list(entries.items())
    if entries is not None and not isinstance(entries, list):
        raise TypeError("its labels are no list")
    for entry in entries or []:
        if not isinstance(entry, list) or len(entry) != 2:
            raise ValueError(f"{str(entry)[:80]} is no [name, class]")
    return [(name, label) for name, label in entries or []]
