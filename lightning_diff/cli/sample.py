"""lightning-diff sample"""

from pathlib import Path
from typing import Annotated

import typer

from .options import PromptFile, PromptTexts, Run, SamplerOptions, spread


@spread
def sample(
    folder: Run,
    n: Annotated[int, typer.Option("--n", "-n", min=1, metavar="N", help="Number of samples.")] = 64,
    labels: Annotated[
        str, typer.Option(metavar="LIST", help="Classes, cycled through: cat,dog or 0,1,2 or all or none.")
    ] = "all",
    prompts: PromptFile = None,
    prompt: PromptTexts = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="PICTURE.png (a grid), FILE.npz or a folder of PNGs; default in the run folder."
        ),
    ] = None,
    latents: Annotated[
        bool, typer.Option("--latents", help="Of a model of latents: keep them, and decode nothing.")
    ] = False,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="In pixels, of a model trained in buckets; default its own."),
    ] = None,
    *,
    sampler: SamplerOptions,
) -> None:
    """Draw samples, the same ones for the same seed.

    Neither the batch nor the device changes them, nor the number of processes: torchrun --nproc-per-node 2 -m
    lightning_diff sample RUN -n 64 draws them in two.
    """
    from ..runs.console import say
    from ..runs.process_group import joined
    from ..runs.prompts import given
    from ..runs.sample import sample as draw

    told = given(prompts, prompt or ())
    with joined(sampler.device) as device:
        settings = sampler.settings(device)
        drawn = draw(folder, settings, n, labels=labels, prompts=told, out=out, latents=latents, size=size)
    if drawn.cost is not None:
        say(drawn.cost)
    say(f"{drawn.n} samples in {drawn.target}")
