"""lightning-diff init"""

from typing import Annotated

import typer


def init(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the new folder, here, and of the runs that it trains.")
    ],
) -> None:
    """Make a folder to start from: recipe, data set and callback.

    They are commented, and train as they are, in seconds.
    """
    from ..runs.new_folder import FILES, RECIPE, make

    folder = make(name)
    print(f"{folder}: {', '.join(FILES)}; lightning-diff train {folder / RECIPE}")
