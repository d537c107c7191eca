"""One recipe from what it extends, its own keys and the command line.

`extends:` names one recipe to start from. Mappings merge key by key, lists and values are replaced, and a node whose `_target_`
changes is replaced whole, because the other keys belonged to the old target. `key=value` overrides come last.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ...foundation.binding import Node, nearest
from ...foundation.errors import UserError
from ...foundation.moved import modern
from . import of_run
from .files import Raw, find, in_its_folder, read, resolved
from .overrides import as_written, merge, override
from .record import KEYS, Recipe, naming
from .validation import check


def load(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Compose a recipe, check all of it, and put images where it has parts of the run; nothing is built, no data are touched.

    Args:
        path: a file, the name of a packaged recipe, or a run folder, whose recipe then means that folder.
        overrides: `dotted.key=value`, where the value is YAML and list entries are named by number; later ones win.

    Raises:
        UserError: the recipe, or something in it, is not right.
    """
    recipe = cast(Recipe, as_written(cast(Node, compose(path, overrides)), overrides))
    check(recipe, source := find(path))
    with naming(source):
        return of_run.resolve(recipe)


def compose(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe with what it extends, all overrides, interpolations and top-level defaults; unchecked below that.

    Puts the working folder and the recipe's on Python's path.
    """
    source = find(path)
    make_importable(source.parent, Path.cwd())
    # In the names of today before overrides, since one in new names belongs on top of a file in old ones.
    recipe = in_its_folder(_on_its_base(_modern(_read(source), source), source), source)
    # A changed target drops the old target's keys, so it has to come before the overrides that set the new one's.
    for text in sorted(overrides, key=lambda text: not text.partition("=")[0].endswith("._target_")):
        recipe = override(recipe, text)
    with naming(source):
        for key in recipe:
            if key == "extends":
                raise UserError("extends: is written in the file, not on the command line")
            if key not in KEYS:
                raise UserError(f"{key}: unknown key of a recipe; {nearest(str(key), KEYS, 'a recipe has')}")
    defaults = {"name": source.stem, "seed": 0, "runs_dir": "runs", "resume": "auto", "model": None, "data": None}
    recipe = defaults | recipe
    recipe |= {"callbacks": recipe.get("callbacks") or [], "trainer": recipe.get("trainer") or {}}
    recipe = _modern({key: recipe[key] for key in KEYS if key in recipe}, source)
    return cast(Recipe, resolved(recipe, source))


def _read(source: Path) -> Raw:
    """As a person wrote it, also where a run has saved it."""
    recipe = of_run.as_written(read(source))
    if "of_run" in recipe:
        raise UserError(f"{source}: of_run: is what a run notes in the recipe that it saves; leave it out")
    return recipe


def _modern(recipe: Raw, source: Path) -> Raw:
    """In the names of today, with a warning for each that is old."""
    recipe, remarks = modern(recipe)
    for remark in remarks:
        warnings.warn(f"{source}: {remark}", FutureWarning, stacklevel=3)
    return recipe


def _on_its_base(recipe: Raw, source: Path) -> Raw:
    """On top of the recipe that it extends, if it extends one."""
    if (base := recipe.pop("extends", None)) is None:
        return recipe
    with naming(f"{source}: extends"):
        base_source = find(str(base), source.parent)
    base_recipe = _modern(_read(base_source), base_source)
    if "extends" in base_recipe:
        raise UserError(
            f"{source}: extends: {base_source} itself extends {base_recipe['extends']}; one level is the limit"
        )
    base_recipe.pop("name", None)  # or both would train in one folder
    return cast(Raw, merge(base_recipe, recipe))


def make_importable(*folders: Path) -> None:
    """Put folders at the front of Python's path, as Python does with a script's."""
    for folder in folders:
        if (entry := str(folder.resolve())) not in sys.path:
            sys.path.insert(0, entry)
