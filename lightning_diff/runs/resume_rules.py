"""Which keys of a recipe may change when a run resumes: each class says so for its own arguments.

A class that a recipe names (training module, data source, network, reward, callback, whatever stands in them) may have

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]]    what leaves the training as it is: ("workers", "test_*")
    RESUME_MUST_KEEP: ClassVar[tuple[str, ...]]     of what may change otherwise, what decides what is trained: ("*",)
    RESUME_DEFAULTS: ClassVar[Node]                 of a callback: arguments whose default a person may also write out

Patterns are those of `fnmatch`, for dotted keys below the object: "path", "dataset.root", "data.*". A subclass adds to what its
bases say. A change is harmless if an object around it says that it may change, or the recipe does, and none says that it must be
kept. The recipe says it for all of `callbacks` and, but for a few keys, of `trainer`; so a callback that says nothing may change in
everything, and a part of `model` or `data` that says nothing in nothing. An object that is replaced by one of another class has
changed at its own key and, for what must be kept, in its `_target_`; one that says that "*" must be kept may neither come nor go.

A length that the new recipe gives as a part of the run follows the run's length (`recipe.of_run`): harmless, if the earlier run had
what that part is of it.
"""

import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import cast

from ..foundation.binding import Node, is_node
from ..foundation.moved import current
from .recipe import LEFT_OUT, NOTES, OF_THE_FOLDER, Change, Recipe, in_the_run_of

RECIPE_MAY_CHANGE = (*OF_THE_FOLDER, "callbacks.*", "trainer.*")
RECIPE_MUST_KEEP = (  # Lightning's Trainer declares nothing
    "trainer.precision",
    "trainer.gradient_clip_*",
    "trainer.plugins*",
    "trainer.sync_batchnorm",
)


def split(changes: list[Change], before: Recipe, after: Recipe) -> tuple[list[Change], list[Change]]:
    """Changes that leave what is trained as it is, and the others.

    Args:
        changes: between the `comparable` recipes.
        before, after: the recipes themselves.
    """
    recipes = [{**settings, "callbacks": _by_class(settings)} for settings in (before, after)]
    parts = in_the_run_of(after, before)
    harmless = [
        change
        for change in changes
        if _is_harmless(change, recipes) or (change.key in parts and parts[change.key] == change.before)
    ]
    return harmless, [change for change in changes if change not in harmless]


def comparable(settings: Recipe) -> Node:
    """A recipe with its callbacks by class rather than by place, since their order says nothing, and without notes."""
    callbacks = _by_class(settings)  # without paths: a class may be named by more than one
    settings = cast(Recipe, {key: value for key, value in settings.items() if key not in NOTES})
    return {**settings, "callbacks": {name: node | {"_target_": _own_name(node)} for name, node in callbacks.items()}}


def _by_class(settings: Recipe) -> dict[str, Node]:
    """Callbacks by the name of their class, the second of a name as "SampleGrid (2)", defaults written out."""
    named: dict[str, Node] = {}
    counts: dict[str, int] = {}
    for node in settings.get("callbacks") or []:
        name = _own_name(node)
        counts[name] = counts.get(name, 0) + 1
        if counts[name] > 1:
            name += f" ({counts[name]})"
        defaults: Node = getattr(_imported(node["_target_"]), "RESUME_DEFAULTS", {})
        named[name] = node | {key: value for key, value in defaults.items() if node.get(key) is None}
    return named


def _own_name(node: Node) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _is_harmless(change: Change, recipes: list[Node]) -> bool:
    comes_or_goes = LEFT_OUT in (change.before, change.after)
    replaced = not comes_or_goes and any(is_node(_at(settings, change.key)) for settings in recipes)
    may, kept = _matches(change.key, RECIPE_MAY_CHANGE), _matches(change.key, RECIPE_MUST_KEEP)
    for settings in recipes:
        for target, key in _owners(settings, change.key):
            may = may or (key != "" and _matches(key, _declared(target, "RESUME_MAY_CHANGE")))
            keep = _declared(target, "RESUME_MUST_KEEP")
            kept = kept or _matches(key, keep) or (replaced and _matches(f"{key}._target_".lstrip("."), keep))
    return may and not kept


def _owners(settings: Node, key: str) -> Iterator[tuple[object, str]]:
    """What each object on the way to a key is built by, and the rest of the way; "" for the object at its end."""
    value: object = settings
    parts = key.split(".")
    for i in range(len(parts) + 1):
        if is_node(value):
            yield _imported(value["_target_"]), ".".join(parts[i:])
        if i < len(parts):
            value = _below(value, parts[i])


def _at(settings: Node, key: str) -> object:
    value: object = settings
    for part in key.split("."):
        value = _below(value, part)
    return value


def _below(value: object, part: str) -> object:
    if isinstance(value, Mapping):
        return value.get(part)
    return value[int(part)] if isinstance(value, list) and part.isdigit() and int(part) < len(value) else None


def _imported(name: object) -> object:
    """The class of that path, if its file is imported, as those of a checked recipe are: a checkpoint's recipe imports nothing."""
    parts = current(str(name)).split(".")
    for length in range(len(parts) - 1, 0, -1):
        if (found := sys.modules.get(".".join(parts[:length]))) is not None:
            value: object = found
            for part in parts[length:]:
                value = getattr(value, part, None)
            return value
    return None


def _declared(target: object, name: str) -> tuple[str, ...]:
    """The patterns of a class and of its bases."""
    bases = target.__mro__ if isinstance(target, type) else (target,)
    return tuple(pattern for base in bases for pattern in getattr(base, "__dict__", {}).get(name, ()))


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
