"""lightning-diff sample"""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Batch,
    Churn,
    Device,
    Grid,
    Guidance,
    Guide,
    Interval,
    Levels,
    Run,
    ScheduleFile,
    SigmaMax,
    SigmaMin,
    Solver,
    Steps,
    noise_levels,
)


def sample(
    folder: Run,
    n: Annotated[int, typer.Option(min=1, metavar="N", help="Number of samples.")] = 64,
    steps: Steps = None,
    solver: Solver = None,
    grid: Grid = None,
    levels: Levels = None,
    schedule: ScheduleFile = None,
    labels: Annotated[
        str, typer.Option(metavar="LIST", help="Classes, cycled through: cat,dog or 0,1,2 or all or none.")
    ] = "all",
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, other samples.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="PICTURE.png (a grid), FILE.npz or a folder of PNGs; default in the run folder."
        ),
    ] = None,
    guidance: Guidance = 1.0,
    guide: Guide = None,
    interval: Interval = (0.0, float("inf")),
    churn: Churn = 0.0,
    sigma_min: SigmaMin = None,
    sigma_max: SigmaMax = None,
    batch: Batch = 256,
    device: Device = "auto",
) -> None:
    """Draw samples, the same ones for the same seed.

    Neither the batch nor the device changes them.
    """
    from ..runs.sample import sample as draw
    from ..runs.sampler_settings import SamplerSettings

    settings = SamplerSettings(
        solver=solver,
        steps=steps,
        grid=grid,
        levels=noise_levels(levels),
        schedule=schedule,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        churn=churn,
        guidance=guidance,
        guide=guide,
        interval=interval,
        seed=seed,
        batch=batch,
        device=device,
    )
    drawn = draw(folder, settings, n, labels=labels, out=out)
    if drawn.cost is not None:
        print(drawn.cost)
    print(f"{drawn.n} samples in {drawn.target}")
