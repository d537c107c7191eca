"""lightning-diff describe"""

from typing import Annotated

import typer

from .completion import describable


def describe(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="From the list, or any import path, your own too.", autocompletion=describable
        ),
    ] = None,
) -> None:
    """List what recipes can name, or one with its options.

    Networks, noise laws, weightings, callbacks, data sources, rewards, solvers, schedules, packaged recipes and the rest, a line
    each; with a name its docstring, and every option with type and default.
    """
    from ..runs import catalogue_text

    print(catalogue_text.one(name) if name else catalogue_text.everything())
