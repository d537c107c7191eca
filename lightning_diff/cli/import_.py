"""lightning-diff import"""

from pathlib import Path
from typing import Annotated

import typer


def import_(
    pickle: Annotated[Path, typer.Argument(metavar="FILE.pkl", help="A network pickle of NVlabs' EDM.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write to; default FILE, beside the pickle.")
    ] = None,
) -> None:
    """Make a model of an EDM pickle.

    Nothing in the pickle is run. What it writes, model.safetensors and model.json, every command takes as a RUN, and a
    recipe as model.start, model.teacher or model.model; all of these take the pickle itself, too.
    """
    from ..artifacts import import_edm_pickle
    from ..foundation.errors import UserError

    if out is None:
        if pickle.suffix != ".pkl":
            raise UserError(f"{pickle}: is not called FILE.pkl; name the folder to write to with --out")
        out = pickle.with_suffix("")
    print(import_edm_pickle(pickle, out))
