"""A run's recipe.yaml, written again from the newest checkpoint where it was lost."""

from pathlib import Path
from typing import cast

from ..artifacts import checkpoints
from ..foundation.errors import UserError
from . import recipe
from .console import say


def restore_recipe(folder: Path) -> None:
    """Write recipe.yaml again if it is missing or no recipe, and a checkpoint holds it; one that is no recipe is kept beside it."""
    source = folder / recipe.SAVED
    try:
        recipe.read_yaml(source, "model", "data")
        return
    except UserError:
        newest = checkpoints.newest(folder / "checkpoints")
    if newest is None or (stored := checkpoints.read(newest)["recipe"]) is None:
        return
    if source.exists():
        source.replace(source.with_name(f"{source.name}.aside"))
    recipe.save(cast(recipe.Recipe, stored), source)
    say(f"{source}: was lost; it is written again, from {newest}")
