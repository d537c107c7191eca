"""lightning-diff new"""

from pathlib import Path
from typing import Annotated

import typer

from .completion import packaged_recipes


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the new recipe, and of the runs that it trains.")],
    origin: Annotated[
        str,
        typer.Option("--from", metavar="RECIPE", help="A packaged recipe.", autocompletion=packaged_recipes),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Default NAME.yaml, here.")] = None,
) -> None:
    """Copy a packaged recipe, comments and all, to make it yours."""
    from ..runs.new_recipe import copy

    written = copy(name, origin, out)
    print(f"{written}: a copy of {origin}; lightning-diff train {written}")
