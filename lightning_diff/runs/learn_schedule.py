"""Time grids that are learned: a schedule run of its own for each model, in its folder's schedules/."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..artifacts import load_schedule, read_record, save_schedule
from ..artifacts.schedule import NAME, Schedule
from ..schedules.grids import through_angles
from . import recipe
from .recipe import Node, Recipe
from .train import train

RECIPES = {"art_rl": "digits_art", "end_point": "digits_end_point"}  # how `learn_schedule` trains, for any model


def learn_schedule(
    model: Path | str,
    method: str,
    steps: int,
    solver: str = "heun",
    *,
    seed: int = 0,
    guidance: float = 1.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    accelerator: str = "auto",
    overrides: Sequence[str] = (),
) -> Schedule:
    """A grid for a model, by a run of its own in its folder's schedules/; an interrupted one resumes, a finished one is read.

    Args:
        model: run folder or model file.
        method: key of `RECIPES`. "art_rl" has one run for all steps and solvers.
        steps, solver: what the grid is for.
        seed, guidance, sigma_min, sigma_max: see `find_schedule.find`.
        accelerator: Lightning's.
        overrides: further words for the recipe, `key=value`.
    """
    model, record = Path(model), read_record(model)
    of_steps = (
        [] if method == "art_rl" else [f"model.learner.steps={steps}", f"model.learner.environment.solver={solver}"]
    )
    folder = (model if model.is_dir() else model.parent) / "schedules"
    words = [
        f"runs_dir={json.dumps(str(folder))}",
        f"seed={seed}",
        f"model.model={json.dumps(str(model))}",
        f"data.model={json.dumps(str(model))}",
        f"model.guidance={guidance}",
        f"model.learner.sigma_min={sigma_min}",
        f"model.learner.sigma_max={sigma_max}",
        f"trainer.accelerator={accelerator}",
        "report=false",
        *of_steps,
        *overrides,
    ]
    started = time.perf_counter()
    source = recipe.find(RECIPES[method])
    key = _key(recipe.load(source, words), record.identity)
    name = f"{method}_{key}" if method == "art_rl" else f"{method}_{solver}_{steps}_{key}"
    if not (folder / name / NAME).is_file():
        train(recipe.load(source, [*words, f"name={name}"]), source)
    found = load_schedule(folder / name)
    grid = through_angles(found.grid(), steps, record.sigma_data)
    seconds = found.costs.get("seconds", time.perf_counter() - started)
    found = replace(found, costs=found.costs | {"seconds": round(seconds, 3)})
    save_schedule(folder / name, found)
    return replace(found, sigmas=grid.tolist(), method=method, solver=solver)


def _key(settings: Recipe, sha256: str) -> str:
    """What a grid is learned by and for: the whole recipe, and the model by its hash in place of its path."""
    content: Node = {
        key: value for key, value in settings.items() if key not in (*recipe.OF_THE_FOLDER, "trainer", *recipe.NOTES)
    }
    content["model"] = content["model"] | {"model": sha256}
    content["data"] = content["data"] | {"model": sha256}
    content["max_steps"] = settings["trainer"]["max_steps"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
