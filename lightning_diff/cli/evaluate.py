"""lightning-diff evaluate"""

from typing import Annotated

import typer

from ..runs import choices
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
    choice,
    noise_levels,
)


def evaluate(
    folder: Run,
    n: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Samples; default as many as held-out images.")
    ] = None,
    steps: Steps = None,
    solver: Solver = None,
    grid: Grid = None,
    levels: Levels = None,
    schedule: ScheduleFile = None,
    search: Annotated[
        bool,
        typer.Option("--search", help="First find the consistency levels of least Fréchet distance, and keep them."),
    ] = False,
    guidance: Guidance = 1.0,
    guide: Guide = None,
    interval: Interval = (0.0, float("inf")),
    churn: Churn = 0.0,
    sigma_min: SigmaMin = None,
    sigma_max: SigmaMax = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the samples.")] = 0,
    feature: Annotated[
        str | None,
        choice(
            "--feature", lambda: [*choices.features(), "inception"], "Feature space: {features}; default by the data."
        ),
    ] = None,
    batch: Batch = 256,
    device: Device = "auto",
) -> None:
    """Measure a run's model against its data.

    Every figure goes to the run's metrics.csv with its protocol.
    """
    from ..runs.evaluate import evaluate as measure
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
    print(measure(folder, settings, n, feature=feature, search=search))
