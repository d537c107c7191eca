"""How near do one and two steps come to the teacher's 35 evaluations? The digits recipes over seeds: denoiser, sCD, sCT.

    python benchmarks/consistency_quality.py [--seeds 3] [--jobs 2] [--runs runs/consistency_quality]

Each seed trains recipes/digits_edm.yaml, and from its model digits_scd.yaml and digits_sct.yaml; finished runs are not trained
again, interrupted ones go on. The second noise level of two steps is searched with 2,000 samples of another seed than those that
are measured. Prints Fréchet distances in the classifier's features, over the seeds, and as ratios to their teachers': of 500
samples, as many as there are held-out images (mean over eight draws, because a single one has a standard deviation of a fifth of
its value), and of 4,000, where less of the distance is the sample's size. The floor is held-out images against the training
split. Writes table.csv and, in picture.png, samples of all from the same noise.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_diff import load_denoiser
from lightning_diff.data import Digits
from lightning_diff.metrics import Reference
from lightning_diff.metrics.evaluate_denoiser import evaluate_denoiser
from lightning_diff.metrics.search_levels import search_levels
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules.sampling import Sampling, choose

DRAWS, LARGE = 8, 4000
STUDENTS = {"scd": "digits_scd", "sct": "digits_sct"}


def train(runs: Path, seed: int) -> None:
    """The three runs of a seed, one after the other, on one thread."""
    for name, recipe in ({"teacher": "digits_edm"} | STUDENTS).items():
        if (runs / f"{name}_{seed}" / "model.json").exists():
            continue
        settings = [f"name={name}_{seed}", f"seed={seed}", f"runs_dir={runs}", "trainer.accelerator=cpu"]
        settings += [f"model.teacher={runs / f'teacher_{seed}'}"] if name != "teacher" else []
        with (runs / f"{name}_{seed}.log").open("a") as log:
            subprocess.run(
                [sys.executable, "-m", "lightning_diff", "train", recipe, *settings],
                check=True,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )


def samplings(runs: Path, seed: int, reference: Reference) -> dict[str, tuple[Path, Sampling]]:
    """What is measured of one seed: a model and how it is drawn from."""
    found = {"teacher, 35 evaluations": (runs / f"teacher_{seed}", choose(load_denoiser(runs / f"teacher_{seed}")))}
    for name, title in {"scd": "sCD", "sct": "sCT"}.items():
        path = runs / f"{name}_{seed}"
        model = load_denoiser(path)
        levels = search_levels(model, reference, 2000, seed=99)
        found[f"{title}, 1 step"] = (path, choose(model, steps=1))
        found[f"{title}, 2 steps"] = (path, choose(model, levels=levels))
    return found


def distance(path: Path, sampling: Sampling, reference: Reference, n: int | None, seed: int) -> tuple[float, float]:
    rows = evaluate_denoiser(load_denoiser(path), reference, n, sampling=sampling, seed=seed)
    values = {row.metric: row.value for row in rows}
    return values["frechet_classifier"], values["frechet_classifier_floor"]


def draw(found: dict[str, tuple[Path, Sampling]], path: Path) -> None:
    """Rows of samples, the same noise and labels in each column."""
    labels = torch.arange(20) % 10
    figure = Figure(figsize=(12, 0.75 * len(found)), layout="constrained")
    for axes, (title, (model, sampling)) in zip(figure.subplots(len(found)), found.items(), strict=True):
        images = generate(
            load_denoiser(model), (1, 8, 8), range(20), labels, sigmas=sampling.sigmas, solver=sampling.solver
        )
        axes.imshow(row_of(images), cmap="gray", vmin=-1, vmax=1)
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def row_of(images: Tensor) -> Tensor:
    return torch.nn.functional.pad(images[:, 0], (1, 1, 1, 1), value=1.0).transpose(0, 1).flatten(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/consistency_quality"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda seed: train(options.runs, seed), range(options.seeds)))

    data = Digits(batch_size=128)
    data.setup()
    reference = Reference(data)
    rows = []
    for seed in range(options.seeds):
        found = samplings(options.runs, seed, reference)
        if seed == 0:
            draw(found, options.runs / "picture.png")
        for title, (path, sampling) in found.items():
            few = [distance(path, sampling, reference, None, draw_seed) for draw_seed in range(DRAWS)]
            many, _ = distance(path, sampling, reference, LARGE, 0)
            level = f"{float(sampling.sigmas[1]):.2f}" if "2 steps" in title else ""
            rows.append((title, seed, level, statistics.mean(value for value, _ in few), many, few[0][1]))
            print(*rows[-1], file=sys.stderr, flush=True)
    with (options.runs / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "seed", "second level", "500 samples", f"{LARGE} samples", "floor"])
        writer.writerows(rows)
    report(rows, options.seeds)


def report(rows: list[tuple[str, int, str, float, float, float]], seeds: int) -> None:
    teachers = {seed: (few, many) for title, seed, _, few, many, _ in rows if title.startswith("teacher")}
    print(f"floor {rows[0][-1]:.3f} (500 held-out images)")
    print("| | second level | 500 samples | / teacher | 4,000 samples | / teacher |\n|---|---|---|---|---|---|")
    for title in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == title]
        few, many = [row[3] for row in own], [row[4] for row in own]
        to_few = [value / teachers[row[1]][0] for row, value in zip(own, few, strict=True)]
        to_many = [value / teachers[row[1]][1] for row, value in zip(own, many, strict=True)]
        cells = [spread(values) if seeds > 1 else f"{values[0]:.3f}" for values in (few, to_few, many, to_many)]
        print(f"| {title} | {' '.join(row[2] for row in own)} | {' | '.join(cells)} |")


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
