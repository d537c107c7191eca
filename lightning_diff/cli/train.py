"""lightning-diff train"""

from pathlib import Path
from typing import Annotated

import typer

from ..foundation.errors import UserError
from ..runs import recipe
from ..runs.recipe import Recipe


def train(
    words: Annotated[list[str], typer.Argument(metavar="RECIPE... [key=value...]", help="Files or packaged names.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and what follows.")] = False,
) -> None:
    """Train one recipe after another; overrides apply to all of them."""
    overrides = [word for word in words if recipe.is_override(word)]
    paths = [word for word in words if not recipe.is_override(word)]
    if not paths:
        raise UserError("train: name a recipe, for instance digits_edm")
    # All of them are checked before the first trains: hours later is too late for a misspelling.
    loaded = [(recipe.load(path, overrides), recipe.find(path)) for path in paths]
    _refuse_conflicts(loaded)
    from ..runs.describe import describe
    from ..runs.train import train as run

    for settings, source in loaded:
        if dry_run:
            print(describe(settings, source))
        else:
            run(settings, source)


def _refuse_conflicts(loaded: list[tuple[Recipe, Path]]) -> None:
    """UserError for recipes that cannot train in one command."""
    taken: dict[Path, Path] = {}
    for settings, source in loaded:
        folder = Path(settings["runs_dir"]) / settings["name"]
        if folder in taken:
            raise UserError(f"{source}: name: {taken[folder]} trains in {folder} too; each run needs its own name")
        taken[folder] = source
    processes = {str([settings["trainer"].get(key) for key in ("devices", "num_nodes")]) for settings, _ in loaded}
    if len(processes) > 1:  # the processes that the first one starts would train the next one too
        raise UserError(
            "train: recipes of one command need the same trainer.devices and num_nodes; train them one by one"
        )
