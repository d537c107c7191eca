"""lightning-diff report"""

from pathlib import Path
from typing import Annotated

import typer

from ..foundation.errors import UserError
from .completion import runs as runs_known


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or names of runs in runs/.", autocompletion=runs_known),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page; default report.html, of one run in its folder."),
    ] = None,
) -> None:
    """Write a page about a run, or several side by side.

    One file to open in any browser, without a network: recipe and versions, curves to zoom into, losses per noise level, samples
    through training, figures with their protocol and floor, schedule, reward, events. A training writes its own when it ends;
    this command, also while it goes on.
    """
    if out is not None and out.suffix != ".html":
        raise UserError(f"--out: {out} does not end in .html")
    from ..runs import named

    found = [named.home(named.find(folder)) for folder in folders]
    from ..runs.report import page
    from ..runs.report.at_end import REPORT

    if out is None:
        out = (found[0] if len(found) == 1 else Path()) / REPORT
    page.write(found, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
