"""How many classes labels are of, and labels that are no classes: ids, and numbers from 1."""

import warnings
from collections.abc import Collection, Sequence

from ..foundation.errors import UserError

FEW = 1024  # classes, up to which it does not matter whether they are used
SPARSE = 16  # times the classes that occur
RELABEL = "of image files and parquet files, relabel=true does it"


def counted(name: str, labels: Collection[int], classes: int = 0) -> int:
    """The number of classes: as given, or the greatest label + 1.

    Raises:
        UserError: labels out of range, or ids in the place of classes, for which a network would hold billions of weights.
    """
    most, used = max(labels), len(set(labels))
    if classes:
        if most >= classes:
            raise UserError(f"{name}: there is a label {most}, which is not in 0..{classes - 1}")
        return classes
    if most >= FEW and most >= SPARSE * used:
        raise UserError(
            f"{name}: labels go up to {most:,}, and {used:,} of them occur: they seem to be ids; number the classes from 0 "
            f"({RELABEL}), or set classes to their number"
        )
    return most + 1


def gaps(name: str, labels: Collection[int], classes: int, *, by_name: bool = False) -> tuple[str, ...]:
    """What to say of classes without images; a warning where labels count from 1, so that class 0 is never trained.

    Args:
        name: for messages.
        labels: that occur.
        classes: their number.
        by_name: whether the labels were names, which do not count from 1.
    """
    occurring = set(labels)
    if not by_name and classes > 1 and occurring == set(range(1, classes)):
        text = f"class 0 of {classes} has no image: labels seem to count from 1"
        warnings.warn(
            f"{name}: {text}; number them from 0 ({RELABEL}), or set classes={classes} to keep them", stacklevel=2
        )
        return (text,)
    return (f"{classes - len(occurring)} of them have no image",) if len(occurring) < classes else ()


def relabelled(name: str, labels: Sequence[int], occurring: Sequence[int]) -> list[int]:
    """Each label as its place among those that occur in training, in increasing order.

    Raises:
        UserError: a label that training lacks.
    """
    places = {label: place for place, label in enumerate(occurring)}
    if unknown := sorted(set(labels) - places.keys()):
        raise UserError(f"{name}: the training images have no label {unknown[0]}")
    return [places[label] for label in labels]
