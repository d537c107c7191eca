"""The user's own modules that a run was trained with: noted in its folder, and found again from there.

`train` puts the recipe's folder on Python's path; `sample` and the rest have no recipe. A note is no permission: a run folder of
somebody else's could name any file. What is imported lies in the working folder or below, where Python looks anyway, and is
byte for byte what trained; of anything else only the place is said.
"""

import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from ..foundation.atomic import sha256
from ..foundation.binding import PLACES

VERSIONS = "versions.json"
OURS = __name__.partition(".")[0]


class Module(TypedDict):
    """A file with code."""

    file: str
    sha256: str


def modules_of(recipe: object) -> dict[str, Module]:
    """The modules, imported by now, that the nodes of a recipe name and that are no part of an installed package."""
    found = {}
    for name in set(_modules(recipe)):
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and name.partition(".")[0] != OURS and not _is_installed(Path(file)):
            found[name] = Module(file=str(Path(file).resolve()), sha256=sha256(Path(file)))
    return dict(sorted(found.items()))


def make_importable(folder: Path) -> None:
    """Let the modules that a run folder notes be imported as when it was trained, or errors say where they were."""
    for name, module in _noted(folder).items():
        if _is_found(name.partition(".")[0]):
            continue
        file, depth = Path(module["file"]), name.count(".") + 1 + (Path(module["file"]).name == "__init__.py")
        if len(file.parents) < depth:  # it cannot be that module's
            continue
        root = file.parents[depth - 1]
        PLACES[name.partition(".")[0]] = module["file"]
        if _is_below_here(root) and file.is_file() and sha256(file) == module["sha256"]:
            sys.path.append(str(root))
            print(f"{folder}: {name} is {file}, as when it was trained", file=sys.stderr)


def _modules(value: object) -> Iterator[str]:
    """Of every `_target_`, the longest part of its path that is a module."""
    if isinstance(value, Mapping):
        if isinstance(target := value.get("_target_"), str):
            parts = target.split(".")
            names = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
            yield from [name for name in names if name in sys.modules][:1]
        for part in value.values():
            yield from _modules(part)
    elif isinstance(value, list):
        for part in value:
            yield from _modules(part)


def _is_installed(file: Path) -> bool:
    paths = sysconfig.get_paths()
    return any(file.is_relative_to(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _is_below_here(folder: Path) -> bool:
    """Whether a folder is the working folder or lies in it; in / lies everything, which says nothing."""
    here = Path.cwd()
    return here != Path(here.anchor) and folder.is_relative_to(here)


def _noted(folder: Path) -> dict[str, Module]:
    """What the note says; nothing where there is none or it is damaged."""
    try:
        noted = json.loads((folder / VERSIONS).read_text(encoding="utf-8"))["modules"]
        return {
            str(name): Module(file=str(module["file"]), sha256=str(module["sha256"])) for name, module in noted.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return package in sys.modules
