"""lightning-diff export"""

from pathlib import Path
from typing import Annotated

import typer

from .options import Run


def export(
    folder: Run,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write to; default the run's own.")
    ] = None,
    ema: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of an average, or none; default the first.")
    ] = None,
    sigma_rel: Annotated[
        float | None, typer.Option(metavar="X", help="Reconstruct an average of this width instead.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, metavar="N", help="Moment of the reconstructed average.")] = None,
) -> None:
    """Write the model of the newest checkpoint.

    Two files: model.safetensors, and model.json, which says how to rebuild the network.
    """
    from ..runs import named
    from ..runs.export import export as write

    print(write(named.home(named.find(folder)), out, profile=ema, sigma_rel=sigma_rel, images=images))
