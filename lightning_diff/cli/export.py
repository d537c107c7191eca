"""lightning-diff export"""

from pathlib import Path
from typing import Annotated

import typer

from .options import Run


def export(
    folder: Run,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default the run's own.")] = None,
    ema: Annotated[str | None, typer.Option(help="Name of an average, or none; default the first.")] = None,
    sigma_rel: Annotated[float | None, typer.Option(help="Reconstruct an average of this width instead.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Moment of the reconstructed average.")] = None,
) -> None:
    """Write model.safetensors and model.json from the newest checkpoint."""
    from ..runs import named
    from ..runs.export import export as write

    print(write(named.home(named.find(folder)), out, profile=ema, sigma_rel=sigma_rel, images=images))
