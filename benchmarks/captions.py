"""Text to image from end to end: trained on captions, distilled, scheduled, rewarded, exported, and drawn by the stock pipeline.

    python benchmarks/captions.py [--seeds 1] [--runs runs/captions] [key=value ...]

Each seed is a chain of whole runs: recipes captions_flow, captions_scd, captions_art and captions_reward; one that is finished is
not trained again. `key=value` goes to all of them (trainer.accelerator=cpu). Prints, as mean ± standard deviation over seeds, how
often samples are the digit of their prompt, for the wordings of training and for the held-out ones, with as many samples as there
are held-out images; their Fréchet distance for held-out wordings; evaluations of the network for a sample; CPU seconds of drawing
and measuring those samples, and of the training. Controls: prompts with another prompt's digit; the same model in as many steps
before distillation, and on a plain grid; real held-out images. Last, the largest difference between the pictures of our sampler and
of the exported folder's StableDiffusion3Pipeline.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_diff.artifacts import load_denoiser, load_schedule
from lightning_diff.condition import Prompts
from lightning_diff.data import Captions
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation import rng
from lightning_diff.metrics import Reference
from lightning_diff.metrics.evaluate_denoiser import evaluate_denoiser
from lightning_diff.runs import recipe
from lightning_diff.runs.build import build_data
from lightning_diff.runs.export import write
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules import GRIDS
from lightning_diff.schedules.sampling import Sampling, choose

GUIDANCE, STEPS, FEW = 3.0, 10, 5
STAGES = ("flow", "scd", "art", "reward")


@dataclass(frozen=True)
class Row:
    """A way to sample.

    Args:
        what: in words.
        stage: whose run has the model.
        trained: of STAGES, whose trainings it took last.
        sampling: solver and noise levels.
        guidance: scale.
        wordings: "train" and "held out", or what else there is.
    """

    what: str
    stage: str
    trained: str
    sampling: Sampling
    guidance: float = 1.0
    wordings: tuple[str, ...] = ("train", "held out")


def train(stage: str, seed: int, runs: Path, overrides: list[str]) -> float | None:
    """One stage of one seed in a process of its own, on one thread: CPU seconds, None if it was finished before."""
    folder, flow = runs / f"{stage}{seed}", runs / f"flow{seed}"
    if (folder / "finished.json").is_file():
        return None
    start = {"flow": [], "scd": [f"model.teacher={flow}"], "art": [f"model.model={flow}", f"data.model={flow}"]}
    words = [f"name={folder.name}", f"runs_dir={runs}", f"seed={seed}"]
    words += start.get(stage, [f"model.model={flow}"])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (runs / f"{folder.name}.log").open("a") as file:
        subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "lightning_diff", "train", f"captions_{stage}", *words, *overrides],
            check=True, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime


def data_of(run: Path, **changes: Any) -> Captions:
    """The data of a run."""
    settings = recipe.read_yaml(run / "recipe.yaml", "data")
    data = build_data(settings | {"data": settings["data"] | changes})
    assert isinstance(data, Captions)
    return data


def prompts_of(run: Path) -> dict[str, Prompts]:
    """The wordings of training, the held-out ones, and these with the digit of another prompt."""
    held_out, train = data_of(run).prompts, data_of(run, held_out=None).prompts
    assert held_out is not None
    assert train is not None
    other = torch.as_tensor(rng.permutation(0, "scrambled", 0, len(held_out)))
    scrambled = Prompts(held_out.texts, held_out.condition[other], held_out.labels)
    return {"train": train, "held out": held_out, "scrambled": scrambled}


def rows(runs: Path, seed: int) -> Iterator[Row]:
    """What is compared."""
    learned = load_schedule(runs / f"art{seed}")
    plain = GRIDS["karras"](FEW, sigma_min=0.002, sigma_max=80.0)
    found = Sampling("euler", torch.tensor(learned.sigmas, dtype=torch.float64), "euler/learned")
    many, student = choose(None, "euler", STEPS), load_denoiser(runs / f"scd{seed}")
    yield Row(f"flow, Euler, {STEPS} steps, guidance {GUIDANCE:g}", "flow", "flow", many, GUIDANCE)
    yield Row("... scrambled prompts", "flow", "flow", many, GUIDANCE, ("scrambled",))
    yield Row(f"flow, Euler, {STEPS} steps", "flow", "flow", many)
    yield Row(f"flow, Euler, {FEW} steps of a plain grid", "flow", "flow", Sampling("euler", plain, "euler"))
    yield Row(f"flow, Euler, {FEW} steps of the learned grid", "flow", "art", found)
    for steps in (2, 1):
        own = choose(student, steps=steps)
        yield Row(f"flow as it is, {steps} steps of the consistency sampler", "flow", "flow", own)
        yield Row(f"distilled, {steps} steps, guidance {GUIDANCE:g}", "scd", "scd", own, GUIDANCE)
    yield Row(f"rewarded, Euler, {STEPS} steps", "reward", "reward", many)
    yield Row(f"rewarded, Euler, {FEW} steps of the learned grid", "reward", "reward", found)


def measure(
    row: Row, denoiser: Denoiser, reference: Reference, told: dict[str, Prompts], seed: int
) -> dict[str, float]:
    """Agreement by wording, Fréchet distance, evaluations and CPU seconds."""
    figures: dict[str, float] = {}
    for wording in row.wordings:
        before = time.process_time()
        found = evaluate_denoiser(
            denoiser, reference, prompts=told[wording], sampling=row.sampling, guidance=row.guidance, seed=seed
        )
        values = {each.metric: each.value for each in found}
        figures |= {f"agreement, {wording}": values["label_agreement"], "Fréchet": values["frechet_classifier"]}
        figures |= {"evaluations": float(found[0].protocol.nfe or 0), "seconds": time.process_time() - before}
        figures |= {"floor": values["frechet_classifier_floor"], "real": values["label_agreement_floor"]}
    return figures


def redrawn(run: Path, schedule: Path | None, told: Prompts, shape: tuple[int, ...], guidance: float) -> float:
    """Largest difference between our samples and those of the exported folder's own pipeline, in units of the images."""
    from diffusers import StableDiffusion3Pipeline

    model = run.with_name(f"{run.name}_for_export")  # the run's model, with the grid in its place
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir()
    for name in ("model.safetensors", "model.json"):
        shutil.copy(run / name, model / name)
    if schedule is not None:
        shutil.copy(schedule, model / "schedule.json")
    folder = write(model, "diffusers").path
    how = json.loads((folder / "sampling.json").read_text())
    nothing = {
        name: None
        for name, value in json.loads((folder / "model_index.json").read_text()).items()
        if value == [None, None]
    }
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, **nothing)
    pipeline.set_progress_bar_config(disable=True)
    eps = torch.from_numpy(rng.normal(0, "sample", range(len(told)), shape).numpy())
    theirs: Tensor = pipeline(
        prompt=list(told.texts), latents=how["start"] * eps, **(how["arguments"] | {"guidance_scale": guidance})
    ).images
    s = pipeline.scheduler.sigmas.double()
    ours = generate(
        load_denoiser(model).told(told), shape, range(len(told)), torch.arange(len(told)),
        sigmas=s / (1 - s), solver="euler", guidance=guidance,
    )  # fmt: skip
    return float((ours - torch.as_tensor(theirs)).abs().max())


def shown(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{spread}" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/captions"))
    options, overrides = parser.parse_known_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    cost: dict[str, list[float]] = {stage: [] for stage in STAGES}
    table: dict[str, list[dict[str, float]]] = {}
    trained, differences = {}, []
    for seed in options.seeds:
        for stage in STAGES:
            seconds = train(stage, seed, options.runs, overrides)
            cost[stage] += [] if seconds is None else [seconds]
        flow = options.runs / f"flow{seed}"
        told, reference = prompts_of(flow), Reference(data_of(flow))
        for row in rows(options.runs, seed):
            denoiser = load_denoiser(options.runs / f"{row.stage}{seed}")
            table.setdefault(row.what, []).append(measure(row, denoiser, reference, told, seed))
            trained[row.what] = row.trained
        shape, schedule = tuple(reference.data.shape), options.runs / f"art{seed}" / "schedule.json"
        for what, grid in (("its own grid", None), ("the learned grid", schedule)):
            differences.append((f"seed {seed}, {what}", redrawn(flow, grid, told["held out"], shape, GUIDANCE)))

    columns = ["agreement, train", "agreement, held out", "agreement, scrambled", "Fréchet", "evaluations", "seconds"]
    print(f"seeds {' '.join(map(str, options.seeds))}; {' '.join(overrides)}\n")
    print("| " + " | ".join(["", *columns, "training"]) + " |\n|" + "---|" * (len(columns) + 2))
    for what, found in table.items():
        cells = [shown([each[column] for each in found if column in each]) for column in columns]
        print(f"| {what} | {' | '.join(cells)} | {shown(cost[trained[what]])} |")
    first = [each for found in table.values() for each in found]
    print(f"| real held-out images |  | {first[0]['real']:.4g} |  | {first[0]['floor']:.4g} |  |  |  |\n")
    for what, difference in differences:
        print(f"exported, drawn by StableDiffusion3Pipeline, {what}: largest difference {difference:.2g}")


if __name__ == "__main__":
    main()
