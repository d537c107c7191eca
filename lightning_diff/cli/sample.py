"""lightning-diff sample"""

from pathlib import Path
from typing import Annotated

import typer

from .options import Run, SamplerOptions, spread


@spread
def sample(
    folder: Run,
    n: Annotated[int, typer.Option("--n", "-n", min=1, metavar="N", help="Number of samples.")] = 64,
    labels: Annotated[
        str, typer.Option(metavar="LIST", help="Classes, cycled through: cat,dog or 0,1,2 or all or none.")
    ] = "all",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="PICTURE.png (a grid), FILE.npz or a folder of PNGs; default in the run folder."
        ),
    ] = None,
    latents: Annotated[
        bool, typer.Option("--latents", help="Of a model of latents: keep them, and decode nothing.")
    ] = False,
    *,
    sampler: SamplerOptions,
) -> None:
    """Draw samples, the same ones for the same seed.

    Neither the batch nor the device changes them, nor the number of processes: torchrun --nproc-per-node 2 -m
    lightning_diff sample RUN -n 64 draws them in two.
    """
    from ..runs.console import say
    from ..runs.process_group import joined
    from ..runs.sample import sample as draw

    with joined(sampler.device) as device:
        drawn = draw(folder, sampler.settings(device), n, labels=labels, out=out, latents=latents)
    if drawn.cost is not None:
        say(drawn.cost)
    say(f"{drawn.n} samples in {drawn.target}")
