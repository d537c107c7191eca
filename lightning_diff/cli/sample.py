"""lightning-diff sample"""

from pathlib import Path
from typing import Annotated

import typer

from .options import Batch, Device, Grid, Guidance, Levels, Run, ScheduleFile, Solver, Steps, noise_levels


def sample(
    folder: Run,
    n: Annotated[int, typer.Option(min=1, metavar="N", help="Number of samples.")] = 64,
    steps: Steps = None,
    solver: Solver = None,
    grid: Grid = None,
    levels: Levels = None,
    schedule: ScheduleFile = None,
    labels: Annotated[str, typer.Option(metavar="LIST", help="Classes, cycled through: 0,1,2 or all or none.")] = "all",
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, other samples.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="PICTURE.png (a grid), FILE.npz or a folder of PNGs; default in the run folder."
        ),
    ] = None,
    guidance: Guidance = 1.0,
    guide: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A worse model to guide by; without it, this one without labels.")
    ] = None,
    interval: Annotated[tuple[float, float], typer.Option(metavar="X X", help="Noise levels at which to guide.")] = (
        0.0,
        float("inf"),
    ),
    churn: Annotated[
        float, typer.Option(min=0.0, metavar="X", help="EDM's S_churn: fresh noise, for {churned}.")
    ] = 0.0,
    sigma_min: Annotated[float | None, typer.Option(metavar="X", help="Smallest noise level; default 0.002.")] = None,
    sigma_max: Annotated[float | None, typer.Option(metavar="X", help="Largest noise level; default 80.")] = None,
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
