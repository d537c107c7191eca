"""What classes are called: as folders, a label file, `datasets`' ClassLabel or torchvision's `classes` name them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

from ..foundation.errors import UserError

# Where a dataset.json may have them, beside "labels".
KEYS = ("class_names", "classes", "names", "label_names", "id2label", "class_to_idx")


def complete(names: Sequence[object], count: int) -> tuple[str, ...]:
    """A name for each class, no two alike; () where there are none.

    Args:
        names: in order of label; those beyond `count` are left out, and a class beyond them is called by its number.
        count: of classes.
    """
    plain = [one_line(name) or str(i) for i, name in enumerate(names[:count])]
    if not plain:
        return ()
    plain += map(str, range(len(plain), count))
    often = Counter(plain)
    return tuple(name if often[name] == 1 else f"{name} ({i})" for i, name in enumerate(plain))


def listed(names: Sequence[str]) -> str:
    """The first five, and how many more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def of_label_file(content: object) -> tuple[str, ...]:
    """What a dataset.json calls its classes, under one of `KEYS`: a list, {"0": "cat"} or {"cat": 0}; () if it says nothing."""
    if not isinstance(content, Mapping):
        return ()
    return next((names for key in KEYS if (names := _in_order(content.get(key)))), ())


def of_dataset(dataset: object, label_key: str) -> tuple[str, ...]:
    """What a map-style dataset calls its classes; () if it says nothing.

    It may have `features`, of which that of the label has `names` (`datasets`), or `classes` or `class_names` (torchvision), or
    be a part of another `dataset` (torch's Subset).
    """
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping) and (names := _in_order(getattr(features.get(label_key), "names", None))):
        return names
    for attribute in ("classes", "class_names"):
        if names := _in_order(getattr(dataset, attribute, None)):
            return names
    inner = getattr(dataset, "dataset", None)
    return () if inner is None or inner is dataset else of_dataset(inner, label_key)


def of_parquet(metadata: Mapping[bytes, bytes] | None, label_column: str) -> tuple[str, ...]:
    """What the schema of a parquet file that `datasets` wrote calls the classes; () if it says nothing."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return _in_order(features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def refuse_other_order(name: str, training: Sequence[str], test: Sequence[str]) -> None:
    """UserError where a label means one class in training and another one in the held-out set."""
    for label, (own, other) in enumerate(zip(training, test, strict=False)):
        numbers = (str(label), f"{label}")
        if own.casefold() != other.casefold() and own not in numbers and other not in numbers:
            raise UserError(
                f"{name}: label {label} is {own!r} in training and {other!r} in the test images; give both sets the same classes"
            )


def _in_order(names: object) -> tuple[str, ...]:
    """Names by label, of any of the three forms; () for anything else."""
    if isinstance(names, Mapping):
        pairs = names.items()
        if all(is_label(label) for label in names.values()):
            pairs = [(label, name) for name, label in pairs]  # type: ignore[assignment]
        elif not all(is_label(label) or str(label).isdecimal() for label in names):
            return ()
        by_label = {int(label): name for label, name in pairs}
        most = max(by_label, default=-1)
        return tuple(one_line(by_label.get(i, i)) for i in range(most + 1)) if most < 2 * len(by_label) + 1000 else ()
    if not isinstance(names, Sequence) or isinstance(names, str | bytes):
        return ()
    # torchvision's ImageNet has synonyms.
    firsts = [name[0] if isinstance(name, tuple | list) and name else name for name in names]
    return tuple(map(one_line, firsts)) if _are_names(firsts) else ()


def _are_names(names: Iterable[object]) -> bool:
    return all(isinstance(name, str | int) and not isinstance(name, bool) for name in names)


def is_label(label: object) -> TypeGuard[int]:
    """Whether it is a whole number >= 0."""
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0


def one_line(name: object) -> str:
    """On one line, also where the bytes of a folder's name are no UTF-8."""
    return " ".join(str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").split())
