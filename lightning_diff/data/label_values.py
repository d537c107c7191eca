"""Labels as files and tables have them: numbers, or the names of classes."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, TypeGuard

from ..foundation.errors import UserError
from .class_names import is_label, listed, one_line
from .decode import shown, some

Labels: TypeAlias = list[int] | list[str]  # all numbers, or all names


class Classes(NamedTuple):
    """What training's classes are called, in order of label, and whether its labels are these names."""

    names: Sequence[str]
    by_name: bool


class Numbered(NamedTuple):
    """Labels as numbers; what the classes are called, as far as that is known; whether the labels were names."""

    labels: list[int]
    names: tuple[str, ...]
    by_name: bool


def known_labels(where: str, labels: Sequence[object], places: Sequence[str]) -> Labels:
    """Labels as a file or a table has them: all whole numbers >= 0, or all names, each on one line.

    Args:
        where: what messages call it.
        labels: as they were read.
        places: what messages call each one's image.

    Raises:
        UserError: labels of two kinds, or that are neither.
    """
    if len(numbers := [label for label in labels if is_label(label)]) == len(labels):
        return numbers
    if len(names := [one_line(label) for label in labels if _is_name(label)]) == len(labels):
        return names
    told = [f"{place} ({_short(label)})" for place, label in zip(places, labels, strict=True)]
    if len(numbers) + len(names) == len(labels):
        kinds = [is_label(label) for label in labels]
        one, other = (told[kinds.index(kind)] for kind in (True, False))
        raise UserError(f"{where} has numbers and names for labels, {one} and {other}; give all images one kind")
    wrong = [i for i, label in enumerate(labels) if not (is_label(label) or _is_name(label))]
    raise UserError(
        f"{where} has labels that are neither whole numbers >= 0 nor names: {some([told[i] for i in wrong])}; "
        f"{_what_to_do(labels[wrong[0]])}"
    )


def numbered(where: str, labels: Labels, names: Sequence[str] = (), training: Classes | None = None) -> Numbered:
    """Labels as numbers.

    A name's number is its place among the names that are known; without any, among those that occur, in alphabetical order.
    Numbers that are written as text, all of them, are numbers.

    Args:
        where: what messages call it.
        labels: as `known_labels` gives them.
        names: what the file calls its classes, in order.
        training: for held-out images, whose labels mean what training's do.

    Raises:
        UserError: a name that is not known, or held-out labels of another kind than training's.
    """
    known = tuple(training.names if training and training.names else names)
    texts = [label for label in labels if isinstance(label, str)]
    if not texts or (not set(texts) <= set(known) and all(text.isascii() and text.isdecimal() for text in texts)):
        if training and training.by_name and not names:
            raise UserError(f"{where} has numbers for labels, and training names; give the held-out images names, too")
        return Numbered([int(label) for label in labels], tuple(names), False)
    if training and not known:
        raise UserError(f"{where} has names for labels, {texts[0]!r} for one, and training's classes have only numbers")
    known = known or tuple(sorted(set(texts)))
    places = {known[place]: place for place in reversed(range(len(known)))}
    if unknown := sorted(set(texts) - places.keys()):
        raise UserError(f"{where}: no class is called {unknown[0]!r}; there are {listed(known)}")
    return Numbered([places[text] for text in texts], known, True)


def _is_name(label: object) -> TypeGuard[str]:
    return isinstance(label, str) and bool(one_line(label))


def _short(label: object) -> str:
    """A label in a message, in the words of JSON where they are other than Python's."""
    return shown("null" if label is None else repr(label)[:60])


def _what_to_do(label: object) -> str:
    if label is None:
        return "give these images a class or take them out (without any classes: labels null as a whole)"
    if isinstance(label, list | tuple | dict):
        return "an image has one class, a number or a name; lists of several, or of zeros and a one, are not read"
    if isinstance(label, float):
        return "write classes without a decimal point"
    return "number the classes from 0, or give their names"
