"""Captions of images: by class, by file or number in a .jsonl, in a .txt beside each image, or from the data themselves."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from ..foundation.errors import UserError
from ..text.prompt_files import class_of, object_of, read_lines, text_of
from .class_names import is_label
from .decode import shown
from .image_files import UNREADABLE, ImageFiles

Wordings = list[tuple[str, ...]]  # of each image, or of each class
BESIDE = "txt"  # as a recipe says that there is a .txt beside each image
CLASS = "{class}"  # in a template
FILE_KEYS = ("file_name", "file", "image")  # the first is that of `datasets`' metadata.jsonl


def by_class(
    given: Mapping[str | int, str | Sequence[str]] | Sequence[str], names: Sequence[str], count: int, key: str
) -> Wordings:
    """The wordings of each class.

    Args:
        given: class, by name or number, -> one wording or several; or templates with {class} for all of them.
        names: of the classes, () where they have numbers alone.
        count: of classes.
        key: of the recipe, for messages.

    Raises:
        UserError: no classes, one without a wording, a key that is none of them, a template without {class}.
    """
    if not count:
        raise UserError(
            f"{key}: are by class, and the images have no labels; give a .jsonl, or {BESIDE} for files beside them"
        )
    called = [names[i] if i < len(names) else str(i) for i in range(count)]
    if not isinstance(given, Mapping):
        if bare := [template for template in given if CLASS not in template]:
            raise UserError(f"{key}: {bare[0]!r} has no {CLASS}, for which the name of each class is put")
        return [_checked(tuple(template.replace(CLASS, name) for template in given), f"{key}") for name in called]
    wordings: dict[int, tuple[str, ...]] = {}
    for name, each in given.items():
        texts = (each,) if isinstance(each, str) else tuple(each)
        wordings[class_of(name, called, key)] = _checked(texts, f"{key}.{name}")
    if missing := [name for label, name in enumerate(called) if label not in wordings]:
        raise UserError(f"{key}: {len(missing)} of {count} classes have no wording, {missing[0]!r} the first of them")
    return [wordings[label] for label in range(count)]


def of_classes(wordings: Wordings, labels: Int64[Tensor, " n"]) -> Wordings:
    """Of each image, by its class's."""
    return [wordings[label] for label in labels.tolist()]


def of_file(
    path: Path, files: Sequence[str], labels: Sequence[int] | None, called: Sequence[str], count: int
) -> Wordings:
    """Of each image, by a .jsonl: lines with "file_name", "index" or "label", and "text" (or "caption", "prompt"), one or several.

    Args:
        path: of the file.
        files: names of the images' files, () where they are from none.
        labels: of the images.
        called: the classes' names.
        count: of images.

    Raises:
        UserError: a line that says neither, an image without a caption.
    """
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: is no file of captions; expected a .jsonl, or {BESIDE} for files beside the images")
    found: dict[str | int, list[str]] = {}
    for place, texts in read_lines(path, lambda line: _entry(line, path, called)):
        found.setdefault(place, []).extend(texts)
    wordings: list[list[str]] = [[] for _ in range(count)]
    for i, each in enumerate(wordings):
        each += found.get(i, [])
        if files:
            each += found.get(files[i], []) or found.get(PurePosixPath(files[i]).name, [])
        if labels is not None:
            each += found.get(_of_class(labels[i]), [])
    named = [place for place in found if isinstance(place, str) and not place.startswith(_CLASS)]
    if named and not files:
        raise UserError(
            f'{path}: names files, {named[0]!r} for instance, and these images are from none; use "index" or "label"'
        )
    if empty := [i for i, each in enumerate(wordings) if not each]:
        which = files[empty[0]] if files else f"number {empty[0]}"
        raise UserError(f"{path}: {len(empty):,} of {count:,} images have no caption, {which} the first of them")
    return [tuple(each) for each in wordings]


def beside(images: Path, files: Sequence[str]) -> Wordings:
    """Of each image, the lines of the .txt of its name that lies beside it, in a folder or a zip.

    Raises:
        UserError: one is missing, empty, or no text.
    """
    if not files:
        raise UserError(f"captions: {BESIDE} is for images in files, and these are from none")
    place, found = ImageFiles(images), []
    for name in files:
        text = str(PurePosixPath(name).with_suffix(".txt"))
        try:
            lines = place.bytes(text).decode("utf-8-sig").splitlines()
        except (KeyError, *UNREADABLE) as error:
            raise UserError(
                f"{place.where}: {shown(text)}, the caption of {shown(name)}, cannot be read: {error}"
            ) from error
        found.append(_checked(tuple(line.strip() for line in lines if line.strip()), f"{place.where}/{shown(text)}"))
    return found


def of_data(examples: object, key: str) -> Wordings:
    """Of each image, what the data say: a column or key of that name, in a tar also "txt" for a .txt beside each image.

    An empty caption stays: it is the empty prompt.

    Raises:
        UserError: images of which nothing is known but themselves; see `of_items`.
    """
    texts: Callable[[str], Wordings] | None = getattr(examples, "texts", None)
    if texts is None:
        name = getattr(examples, "name", type(examples).__name__)
        raise UserError(
            f"captions: {key!r} would be a column of the data, and {name} has none; give a .jsonl, {BESIDE} for files beside the "
            "images, or wordings by class"
        )
    return texts(key)


def of_items(dataset: Any, key: str, called: Callable[[int], str]) -> Wordings:
    """Of each item of a map-style dataset, by its `column_of(key)`, or else one after another.

    Args:
        dataset: of mappings.
        key: of the caption, a text or several.
        called: an item, for messages.

    Raises:
        UserError: an item without a caption, or one that is no text; named.
    """
    column: Callable[[str], Sequence[object]] | None = getattr(dataset, "column_of", None)
    values = column(key) if column is not None else (_value(dataset[i], key) for i in range(len(dataset)))
    return [_texts(value, key, called, i) for i, value in enumerate(values)]


def _value(item: object, key: str) -> object:
    return item.get(key) if isinstance(item, Mapping) else None


def _texts(value: object, key: str, called: Callable[[int], str], i: int) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not texts or not all(isinstance(each, str) for each in texts):
        what = "has no caption" if value is None or value == [] else f"has a caption that is no text but {value!r:.40}"
        raise UserError(f"{called(i)}: {what} ({key!r}); remove it, or give it one, an empty one for none")
    return tuple(each.strip() for each in texts)


def distinct(wordings: Iterable[Sequence[str]]) -> list[str]:
    """Every text once: of each the first wording, then of each the second, and so on."""
    each = list(dict.fromkeys(tuple(texts) for texts in wordings))
    most = max(map(len, each), default=0)
    return list(dict.fromkeys(texts[i] for i in range(most) for texts in each if i < len(texts)))


_CLASS = "\0class "  # before the number of a class, which no file's name begins with


def _of_class(label: int) -> str:
    return f"{_CLASS}{label}"


def _entry(line: str, path: Path, called: Sequence[str]) -> tuple[str | int, tuple[str, ...]]:
    entry = object_of(line)
    text = text_of(entry)
    texts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, list) else ()
    if not texts or not all(isinstance(each, str) and each.strip() for each in texts):
        raise ValueError(f"expected a caption or several, got {text!r}")
    if (file := next((entry[key] for key in FILE_KEYS if key in entry), None)) is not None:
        return str(file).removeprefix("./"), texts
    if is_label(index := entry.get("index")):
        return index, texts
    if isinstance(label := entry.get("label"), str | int) and not isinstance(label, bool):
        try:
            return _of_class(class_of(label, called, "label")), texts
        except UserError as error:
            raise ValueError(str(error)) from error
    raise ValueError('says of no image: give "file_name", "index" or "label"')


def _checked(texts: tuple[str, ...], key: str) -> tuple[str, ...]:
    if not texts or not all(text.strip() for text in texts):
        raise UserError(f"{key}: holds no caption")
    return texts
