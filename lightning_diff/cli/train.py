"""lightning-diff train"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ..foundation.errors import UserError
from ..runs import recipe
from ..runs.recipe import Recipe
from .completion import recipes_and_runs


def train(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE... [key=value...]",
            help="Recipes: files or packaged names, or run folders; then what to change in them.",
            autocompletion=recipes_and_runs,
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and what follows.")] = False,
    many: Annotated[
        bool, typer.Option("--multirun", "-m", help="A run for each combination of values with commas: seed=0,1,2.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Of -m: how many runs at a time.")] = 1,
) -> int:
    """Train recipes one after another, or go on with runs.

    Packaged recipes: {recipes}. `new` copies one, comments and all.

    Every key can be changed by key=value, in all of the recipes that are named: model.net.channels=64. docs/recipes.md says how
    recipes are read, `describe` which classes there are and what options they have.

    With a run folder in a recipe's place that run goes on, wherever it lies.
    """
    overrides = [word for word in words if recipe.is_override(word)]
    paths = [word for word in words if not recipe.is_override(word)]
    if not paths:
        raise UserError("train: name a recipe, for instance digits_edm")
    if many:
        return _grid(paths, overrides, jobs, dry_run=dry_run)
    if jobs > 1:
        raise UserError("--jobs: is for the runs of -m; recipes of one command may need each other")
    # All of them are checked before the first trains: hours later is too late for a misspelling.
    loaded = [(recipe.load(path, overrides), recipe.find(path)) for path in paths]
    _refuse_one_folder(loaded)
    _refuse_other_processes(loaded)
    from ..runs.describe import describe
    from ..runs.train import train as run

    for settings, source in loaded:
        if dry_run:
            print(describe(settings, source))
        else:
            run(settings, source)
    return 0


def _grid(paths: list[str], overrides: list[str], jobs: int, *, dry_run: bool) -> int:
    from ..runs import grid

    points = grid.points(paths, overrides)
    _refuse_one_folder((point.settings, point.source) for point in points)
    from ..runs import side_by_side

    side_by_side.refuse_launched(jobs)
    if dry_run:
        from ..runs.describe import describe

        print("\n---\n".join(describe(point.settings, point.source) for point in points))
        return 0
    return side_by_side.run(points, jobs)


def _refuse_one_folder(loaded: Iterable[tuple[Recipe, Path]]) -> None:
    """UserError for runs that would train in one folder."""
    taken: dict[Path, Path] = {}
    for settings, source in loaded:
        folder = Path(settings["runs_dir"]) / settings["name"]
        if (place := folder.resolve()) in taken:
            raise UserError(f"{source}: name: {taken[place]} trains in {folder} too; each run needs its own name")
        taken[place] = source


def _refuse_other_processes(loaded: Iterable[tuple[Recipe, Path]]) -> None:
    """UserError for recipes that want different numbers of processes."""
    processes = {str([settings["trainer"].get(key) for key in ("devices", "num_nodes")]) for settings, _ in loaded}
    if len(processes) > 1:  # the processes that the first one starts would train the next one too
        raise UserError(
            "train: recipes of one command need the same trainer.devices and num_nodes; train them one by one"
        )
