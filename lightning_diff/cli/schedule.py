"""lightning-diff schedule"""

from pathlib import Path
from typing import Annotated

import typer

from ..foundation.errors import UserError
from .options import Device, Guidance, Run


def schedule(
    folder: Run,
    method: Annotated[
        str,
        typer.Option(
            help="art_solver, art, optimised, art_rl, end_point, gits, ays, edm, edm_free, log_snr, uniform or tangent."
        ),
    ] = "art_solver",
    steps: Annotated[int, typer.Option(min=1, help="Solver steps.")] = 18,
    solver: Annotated[str, typer.Option(help="{ode_solvers}: what the grid is for.")] = "heun",
    trajectories: Annotated[int | None, typer.Option(min=2, help="To learn from; 256.")] = None,
    seed: Annotated[int, typer.Option(help="Of their noise.")] = 0,
    guidance: Guidance = 1.0,
    sigma_min: Annotated[float, typer.Option(help="Smallest noise level that is looked at.")] = 0.002,
    sigma_max: Annotated[float, typer.Option(help="Largest noise level, where sampling starts.")] = 80.0,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="A copy of the schedule.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Trajectories at a time.")] = 64,
    device: Device = "auto",
) -> None:
    """Find the noise levels that make a model best in few steps; they go to the run's schedule.json, with a picture."""
    from ..artifacts.schedule import save_schedule
    from ..runs import find_schedule, trained
    from ..runs.schedule_figure import save_picture

    model = trained.model(folder)
    find_schedule.refuse_unfit(model, method, solver, guidance=guidance, sigma_min=sigma_min, sigma_max=sigma_max)
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out: {out} does not end in .json")
    found = find_schedule.find(
        model.path,
        model.load(device),
        method,
        steps,
        solver,
        trajectories=trajectories,
        seed=seed,
        guidance=guidance,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        batch=batch,
        progress=True,
    )
    if out is not None:
        save_schedule(out, found)
    picture = save_picture(model.home, steps)
    print(", ".join(f"{sigma:.4g}" for sigma in found.sigmas))
    print(f"{model.home / 'schedule.json'}, {picture}: {method} for {solver}, {found.costs.get('seconds', 0):.1f} s")
