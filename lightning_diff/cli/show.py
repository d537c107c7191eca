"""lightning-diff show"""

from pathlib import Path
from typing import Annotated

import typer

from ..runs import recipe
from .completion import recipes_and_runs


def show(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="File or packaged name.", autocompletion=recipes_and_runs)
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value...]", help="What to change in it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the noise levels, too.")] = None,
) -> None:
    """Show a recipe before it trains, and the noise levels it takes.

    What its author says of it, and the noise levels that it draws and weighs.

    p is how often a level is drawn, w the weight of its loss, p w its share of the objective, all over log-SNR and as at the first
    step. Nothing is trained.
    """
    settings, source = recipe.load(name, overrides or []), recipe.find(name)
    from ..runs.show import show as shown

    print(shown(settings, source, out))
