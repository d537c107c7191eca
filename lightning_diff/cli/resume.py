"""lightning-diff resume"""

from pathlib import Path
from typing import Annotated

import typer

from ..foundation.errors import UserError
from ..runs import named, recipe
from .completion import runs


def resume(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or the name of one in runs/.", autocompletion=runs)
    ],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value...]", help="What to change, trainer.max_steps=9000 say.")
    ] = None,
) -> None:
    """Go on with a run in its folder, wherever that is.

    The folder's recipe.yaml says what the run is; no recipe or override of the first command is needed again.
    What may change in a run that goes on: docs/recipes.md.
    """
    overrides = words or []
    for word in overrides:
        if not recipe.is_override(word):
            raise UserError(f"resume: {word} is no key=value; one run at a time is resumed")
    folder = named.home(named.find(run))
    source = folder / recipe.SAVED
    from ..runs.restored import restore_recipe

    restore_recipe(folder)
    if recipe.run_folder(source) is None or not source.is_file():
        raise UserError(f"{folder}: is no run folder with a {recipe.SAVED}; train it by the recipe that it began with")
    settings = recipe.load(source, ["resume=required", *overrides])
    from ..runs.train import train

    train(settings, source)
