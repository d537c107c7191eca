"""lightning-diff runs"""

from pathlib import Path
from typing import Annotated

import typer


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where they are.")] = Path("runs"),
) -> None:
    """List runs: step, loss, best figure, size, state.

    Training: a process holds it. Finished: all is written. Stopped: `resume` goes on. Damaged: `doctor` says what is. Checksums are
    doctor's, too.
    """
    from ..runs import listing

    print(listing.as_text(listing.look(folder)))
