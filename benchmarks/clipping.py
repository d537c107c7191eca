"""What brings one step nearer to the teacher? sCD on the digits from one denoiser, the recipe's arms against its plain form.

    python benchmarks/clipping.py [--steps 1250] [--batch 128] [--seeds 1] [--jobs 1] [--arms plain bounds ...]

Trains recipes/digits_edm.yaml, and from its model digits_scd.yaml, shortened to --steps with a warm-up of a fifth of them and an
average whose half-life is an eighth of its images. Arms differ from `plain` in one thing, or in those that their names add up; a
seed fixes examples, noise and samples in all arms. Finished runs are not trained again, interrupted ones go on. Prints, for each
arm, the Fréchet distance in the classifier's features of 2,000 samples with one step and with two (second level 0.4): mean over
four draws and over the seeds; of the samples clipped and rounded, as they are saved, and as they come. Writes table.csv in --runs.
"""

import argparse
import csv
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from one_step import BOUNDS, LARGEST, spread, train

from lightning_diff import load_denoiser
from lightning_diff.artifacts.pictures import to_uint8
from lightning_diff.data import Digits
from lightning_diff.denoiser import Denoiser
from lightning_diff.metrics import Reference
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules.sampling import Sampling, choose

N, DRAWS, SECOND = 2000, 4, 0.4
ARMS: dict[str, list[str]] = {
    "plain": [],
    "bounds": BOUNDS,
    "largest": LARGEST,
    "bounds, largest": BOUNDS + LARGEST,
}


def student(options: argparse.Namespace, arm: str, seed: int) -> Path:
    name = f"{arm.replace(', ', '_')}_{seed}"
    words = [
        f"seed={seed}",
        f"model.teacher={options.runs / 'teacher'}",
        f"trainer.max_steps={options.steps}",
        f"data.batch_size={options.batch}",
        f"callbacks.0.profiles.ema.images={options.steps * options.batch // 8}",
        "model.warmup=0.2",
        *ARMS[arm],
    ]
    return train("digits_scd", name, options.runs, words)


def distances(model: Denoiser, sampling: Sampling, reference: Reference) -> tuple[float, float]:
    """Mean over draws: of samples as they are saved, and as they come."""
    labels = torch.arange(N) % reference.data.num_classes
    found: list[tuple[float, float]] = []
    for seed in range(DRAWS):
        images = generate(
            model, reference.data.shape, range(N), labels, sigmas=sampling.sigmas, solver=sampling.solver, seed=seed
        )
        saved = to_uint8(images).float() / 127.5 - 1
        found.append(tuple(reference.measure(each, labels)[1]["frechet_classifier"] for each in (saved, images)))
    return statistics.mean(each[0] for each in found), statistics.mean(each[1] for each in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1250)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--runs", type=Path, default=Path("runs/clipping"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    teacher = train("digits_edm", "teacher", options.runs, [])
    wanted = [(arm, seed) for arm in options.arms for seed in range(options.seeds)]
    with ThreadPoolExecutor(options.jobs) as pool:
        folders = list(pool.map(lambda each: student(options, *each), wanted))

    data = Digits(batch_size=128)
    data.setup()
    reference = Reference(data)
    denoiser = load_denoiser(teacher)
    rows = [("teacher", 35, 0, *distances(denoiser, choose(denoiser), reference))]
    denoiser.bounds = (-1.0, 1.0)
    rows.append(("teacher, bounds", 35, 0, *distances(denoiser, choose(denoiser), reference)))
    for (arm, seed), folder in zip(wanted, folders, strict=True):
        model = load_denoiser(folder)
        for sampling in (choose(model, steps=1), choose(model, levels=[SECOND])):
            rows.append((arm, sampling.steps, seed, *distances(model, sampling, reference)))
            print(*rows[-1], file=sys.stderr, flush=True)
    with (options.runs / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "evaluations", "seed", "as saved", "as they come"])
        writer.writerows(rows)
    report(rows)


def report(rows: list[tuple[str, int, int, float, float]]) -> None:
    print("| | evaluations | as saved | as they come |\n|---|---|---|---|")
    for arm, calls in dict.fromkeys(row[:2] for row in rows):
        own = [row for row in rows if row[:2] == (arm, calls)]
        print(f"| {arm} | {calls} | {' | '.join(spread([row[i] for row in own]) for i in (3, 4))} |")


if __name__ == "__main__":
    main()
