"""What a recipe and the commands can name: found in the package's public rooms (their `__all__`), read from the source files.

Nothing is imported: the whole list costs the reading of some fifty files.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..foundation.source_signatures import descends
from ..foundation.sources import Defined, Source, constant, find, source
from . import choices, recipe
from .recipe.validation import CALLBACK, DATA, MODULE

PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Entry:
    """One thing that there is.

    Args:
        kind: as the list calls it, in the plural.
        name: short, as a person says it.
        path: import path; of a packaged recipe its file.
        summary: the first line of its docstring or header.
        defined: where; None for a recipe.
    """

    kind: str
    name: str
    path: str
    summary: str
    defined: Defined | None = None


def entries() -> Iterator[Entry]:
    """All of them, kind by kind, by name."""
    for kind, room, belongs in KINDS:
        for name, found in sorted(_public(room), key=lambda pair: pair[0].lower()):
            if belongs(found):
                yield Entry(kind, name, f"{PACKAGE}.{room}.{name}", first_line(found.docstring), found)
        if kind == "schedules":
            yield from _searched()
    for name, path in recipe.packaged().items():
        yield Entry("packaged recipes", name, str(path), first_line(header(path.read_text(encoding="utf-8"))))


def header(text: str) -> str:
    """The comment that a recipe begins with, without its marks."""
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def first_line(text: str) -> str:
    """Of a docstring; "" if there is none."""
    return text.partition("\n")[0].strip()


def _public(room: str) -> Iterator[tuple[str, Defined]]:
    """The classes and functions of a room: those of its `__all__`, or, of a file without one, all without an underscore."""
    here = source(f"{PACKAGE}.{room}")
    assert here is not None
    for name in here.exported or [name for name in here.bindings if _is_defined(here, name)]:
        if (found := find(f"{here.name}.{name}")) is not None:
            yield name, found


def _is_defined(here: Source, name: str) -> bool:
    return not name.startswith("_") and isinstance(here.bindings[name][0], ast.ClassDef | ast.FunctionDef)


def _searched() -> Iterator[Entry]:
    """The methods of the command `schedule` that are no public names of their room."""
    table = constant(f"{PACKAGE}.schedules.search.METHODS")
    public = {found.path for _, found in _public("schedules")}
    for value in table.values if isinstance(table, ast.Dict) else []:
        for part in ast.walk(value):
            found = find(f"{PACKAGE}.schedules.search.{part.id}") if isinstance(part, ast.Name) else None
            if found and found.path not in public and not found.node.name.startswith("_") and _is_ours(found):
                yield Entry("schedules", found.node.name, found.path, first_line(found.docstring), found)


def _is_ours(found: Defined) -> bool:
    return found.source.name.startswith(f"{PACKAGE}.")


def _bases(found: Defined) -> set[str]:
    """The names of a class's own bases."""
    bases = found.node.bases if isinstance(found.node, ast.ClassDef) else []
    return {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in bases}


def _is_class(found: Defined) -> bool:
    """A class to build: no protocol, no record."""
    return isinstance(found.node, ast.ClassDef) and not _bases(found) & {"Protocol", "NamedTuple", "TypedDict"}


def _is_function(found: Defined) -> bool:
    return isinstance(found.node, ast.FunctionDef)


def _kind_of(*ancestors: str) -> Callable[[Defined], bool]:
    """Classes that derive from one of these, themselves left out."""
    return lambda found: _is_class(found) and found.path not in ancestors and descends(found, ancestors)


def _is_reward(found: Defined) -> bool:
    body = found.node.body
    return _is_class(found) and any(getattr(statement, "name", "") == "__call__" for statement in body)


def _is_solver(found: Defined) -> bool:
    return _is_function(found) and found.node.name in choices.solvers().all


def _is_loss(found: Defined) -> bool:
    return _is_function(found) and found.node.name.endswith("_loss")


KINDS: tuple[tuple[str, str, Callable[[Defined], bool]], ...] = (
    ("training modules", "modules", _kind_of(*MODULE, f"{PACKAGE}.modules.denoiser_module.TrainingModule")),
    ("networks", "nets", _is_class),
    ("network adapters", "nets.lora", lambda found: _is_class(found) and "Module" not in _bases(found)),
    ("noise laws", "noise", _kind_of(f"{PACKAGE}.noise.laws.TrainingLaw")),
    ("weightings", "weighting", _kind_of(f"{PACKAGE}.weighting.base.Weighting")),
    ("objectives", "objectives", _is_loss),
    ("learning rates", "learning_rate", _is_class),
    ("averages", "ema", _is_class),
    ("data sources", "data", _kind_of(*DATA)),
    ("augmentations", "data.augment", _is_class),
    ("callbacks", "callbacks", _kind_of(*CALLBACK)),
    ("rewards", "rewards", _is_reward),
    ("reward fine-tuning", "rollouts", _is_class),
    ("solvers", "samplers", _is_solver),
    ("schedules", "schedules", _is_function),
    ("learned schedules", "schedules", _is_class),
)
