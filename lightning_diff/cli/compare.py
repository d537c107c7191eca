"""lightning-diff compare"""

from pathlib import Path
from typing import Annotated

import typer

from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from .completion import runs as runs_known


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or names of runs in runs/.", autocompletion=runs_known),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.png", help="The picture; the table goes beside it, as .csv.")
    ] = Path("compare.png"),
) -> None:
    """Draw several runs' losses and figures side by side.

    Losses per noise level in one picture, final figures in one table.
    """
    from ..runs import compare as comparing
    from ..runs import named
    from ..runs.output import writable

    runs = comparing.read([named.home(named.find(folder)) for folder in folders])
    if out.suffix != ".png":
        raise UserError(f"--out: {out} does not end in .png")
    writable(out, out, (3, 1, 1))
    with replacing(out) as temporary:
        comparing.draw(runs).savefig(temporary, dpi=110)
    protocol = comparing.common_protocol(runs)  # after the picture: the losses compare whatever the figures do
    rows = comparing.table(runs, protocol)
    comparing.write_table(out.with_suffix(".csv"), rows)
    print(comparing.as_text(runs, rows))
    if protocol is not None:
        measured = [f"{name} {value}" for name, value in zip(comparing.COMPARABLE, protocol, strict=True) if value]
        headline = len(comparing.HEADLINE)
        print(", ".join(measured[:headline]), ", ".join(measured[headline:]), sep="\n")
    print(f"{out}, {out.with_suffix('.csv')}")
