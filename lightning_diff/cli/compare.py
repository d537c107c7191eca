"""lightning-diff compare"""

from pathlib import Path
from typing import Annotated

import typer

from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from .as_json import AsJson, aside, print_json
from .completion import runs as runs_known


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or names of runs in runs/.", autocompletion=runs_known),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.png", help="The picture; the table goes beside it, as .csv.")
    ] = Path("compare.png"),
    as_json: AsJson = False,
) -> None:
    """Draw several runs' losses and figures side by side.

    Learning curves and losses per noise level in one picture, final figures in one table. Runs that differ in their seed alone are
    one row: mean and 95 % interval. What does not compare is marked with a *, and said.
    """
    if out.suffix != ".png":
        raise UserError(f"--out: {out} does not end in .png")
    from ..runs import compare as comparing
    from ..runs import compare_figure, compare_groups, compare_table, named
    from ..runs.output import writable

    with aside(as_json):
        runs = comparing.read([named.home(named.find(folder)) for folder in folders])
    shown = compare_groups.series(compare_groups.grouped(runs))
    remarks = compare_groups.remarks(shown)
    writable(out, out, (3, 1, 1))
    with replacing(out) as temporary:
        compare_figure.draw(shown, remarks).savefig(temporary, dpi=110)
    rows = compare_table.table(shown)
    compare_table.write_table(out.with_suffix(".csv"), rows)
    if as_json:
        groups = {each.group.name: [run.name for run in each.group.runs] for each in shown}
        files = {"picture": out, "table": out.with_suffix(".csv")}
        print_json({"rows": [*map(compare_table.facts, rows)], "runs": groups, "remarks": remarks, "files": files})
        return
    print(compare_table.as_text(shown, rows))
    main = next((each.protocol for each in shown if each.protocol is not None and not each.figures_differ), None)
    if main is not None:
        measured = [f"{name} {value}" for name, value in zip(comparing.COMPARABLE, main, strict=True) if value]
        headline = len(comparing.HEADLINE)
        print(", ".join(measured[:headline]), ", ".join(measured[headline:]), sep="\n")
    print(*compare_table.runs_of(shown), *remarks, f"{out}, {out.with_suffix('.csv')}", sep="\n")
