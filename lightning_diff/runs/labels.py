"""Classes as a person names them on the command line: by name, by number, all or none."""

import csv
import unicodedata
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from ..foundation.binding import nearest
from ..foundation.errors import UserError


def classes_of(labels: str, num_classes: int, names: Sequence[str] = ()) -> Int64[Tensor, " classes"] | None:
    """The classes to cycle through; None for samples without a label.

    Args:
        labels: names or numbers with commas, a name with a comma in quotation marks; or "all" or "none".
        num_classes: of the model.
        names: of its classes, in order of label; () if they have none. A name goes before a number.

    Raises:
        UserError: no such class; the nearest name is offered.
    """
    if labels == "none" or (labels == "all" and not num_classes):
        return None
    if not num_classes:
        raise UserError("--labels: this model has no classes")
    if labels == "all":
        return torch.arange(num_classes)
    if "," in labels and (whole := _named(labels, names)) is not None:
        return torch.tensor([whole])
    words = [word.strip() for word in next(csv.reader([labels], skipinitialspace=True), [])]
    if not words or not all(words):
        raise UserError(f"--labels: expected names or numbers with commas, all or none, got {labels!r}")
    return torch.tensor([_label(word, num_classes, names) for word in words])


def _label(word: str, num_classes: int, names: Sequence[str]) -> int:
    if (label := _named(word, names)) is not None:
        if word.isdecimal() and int(word) != label and int(word) < num_classes:
            warnings.warn(f"--labels: {word} is the class of this name, whose number is {label}", stacklevel=2)
        return label
    try:
        label = int(word)
    except ValueError:
        if not names:
            raise UserError(
                f"--labels: this model's classes are 0 to {num_classes - 1}, without names: expected numbers with commas, all or "
                f"none, got {word!r}"
            ) from None
        raise UserError(
            f"--labels: this model has no class {word!r}; {nearest(word, names, 'its classes are')}"
        ) from None
    if not 0 <= label < num_classes:
        raise UserError(f"--labels: this model has classes 0 to {num_classes - 1}, not {label}")
    return label


def _named(word: str, names: Sequence[str]) -> int | None:
    """The class of this name; in another case of letters, if it is the only one."""
    if word in names:
        return list(names).index(word)
    alike = [label for label, name in enumerate(names) if _folded(name) == _folded(word)]
    return alike[0] if len(alike) == 1 else None


def _folded(name: str) -> str:
    """One form for comparisons: without case, accents composed."""
    return unicodedata.normalize("NFC", " ".join(name.split())).casefold()
