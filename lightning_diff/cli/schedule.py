"""lightning-diff schedule"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..foundation.errors import UserError
from ..runs import choices
from .as_json import AsJson, aside, print_json
from .options import Device, Guidance, PromptFile, Run, choice


def schedule(
    folder: Run,
    method: Annotated[str, choice("--method", choices.methods, "How: {methods} (docs/schedules.md).")] = "art_solver",
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Solver steps.")] = 18,
    solver: Annotated[
        str | None,
        choice(
            "--solver",
            lambda: choices.solvers().ode,
            "{ode_solvers}: what the grid is for; default heun, or an imported model's own.",
        ),
    ] = None,
    trajectories: Annotated[int | None, typer.Option(min=2, metavar="N", help="To learn from; default 256.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of their noise.")] = 0,
    prompts: PromptFile = None,
    guidance: Guidance = 1.0,
    sigma_min: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Smallest noise level that is looked at; default 0.002, or an imported model's."
        ),
    ] = None,
    sigma_max: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Largest noise level, where sampling starts; default 80, or an imported model's."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="A copy of the schedule.")] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Trajectories at a time.")] = 64,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the noise levels that suit a model in few steps.

    They go to the run's schedule.json, with a picture.
    """
    from ..artifacts.schedule import save_schedule
    from ..runs import find_schedule, run_trackers, trained
    from ..runs.prompts import asked, given
    from ..runs.schedule_figure import save_picture

    model = trained.model(folder)
    find_schedule.refuse_unfit(model, method, solver, guidance=guidance, sigma_min=sigma_min, sigma_max=sigma_max)
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out: {out} does not end in .json")
    with aside(as_json):
        wish = asked(model, prompts=given(prompts))
        found = find_schedule.find(
            model.path,
            model.load(device),
            method,
            steps,
            solver,
            trajectories=trajectories,
            prompts=wish.prompts,
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
        run_trackers.send_picture(model.home, "schedule", picture, model.record)
    kept = model.home / "schedule.json"
    if as_json:
        files = {"schedule": kept, "picture": picture, "copy": out}
        print_json({"steps": found.steps, **asdict(found), "files": files})
        return
    print(", ".join(f"{sigma:.4g}" for sigma in found.sigmas))
    print(f"{kept}, {picture}: {method} for {found.solver}, {found.costs.get('seconds', 0):.1f} s")
