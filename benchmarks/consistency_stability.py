"""What keeps continuous-time consistency training stable? The same run on the digits with one safeguard after another switched off.

    python benchmarks/consistency_stability.py [--steps 4000] [--seeds 2] [--jobs 2] [--runs runs/consistency_stability]
    python benchmarks/consistency_stability.py --arms default --steps 20000 --seeds 1 --runs runs/consistency_long

A small U-Net (16 channels) learns to denoise, with TrigFlow's time and double normalisation; sCT (`--objective distillation`:
sCD) starts from it. Arms differ from `default` in one thing; without double normalisation the denoiser is another, of the same
training. A seed fixes examples, noise and samples in all arms. A run that meets a non-finite value stops there, by `FiniteGuard`.
Interrupted, it continues where it was. Prints a table and writes table.csv and picture.png in --runs:

    grad norm    over the second half of the run: median, and largest over median
    spikes       windows of 10 steps whose largest tangent is 20 times what is usual at its level (callback Tangents)
    frechet      two-step samples of the averaged weights at the end, in the classifier's feature space (n = 500)
    finite       steps until the first non-finite value, or all
"""

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from matplotlib.figure import Figure

from lightning_diff.artifacts.metrics_table import read

BATCH, TEACHER_STEPS = 64, 2000
NON_FINITE = re.compile(r"step ([\d,]+): .*not finite")
DOUBLE = ["model.net.norm=double", "model.net.qk_norm=true"]
ARMS: dict[str, list[str]] = {
    "default": [],
    "no normalisation": ["model.normalisation=none"],
    "clipped instead": ["model.normalisation=clip"],
    "no adaptive weight": ["model.weighting={_target_: lightning_diff.weighting.Uniform}"],
    "no warm-up": ["model.warmup=0"],
    "no double normalisation": [],
}


def train(options: argparse.Namespace, name: str, recipe: str, *settings: str) -> Path:
    """A run in a process of its own, on one thread; a finished one, and one that failed, returns at once."""
    folder, log = options.runs / name, options.runs / f"{name}.log"
    if not (folder / "model.json").exists() and not (log.exists() and "not finite" in log.read_text()):
        common = [f"name={name}", f"runs_dir={options.runs}", "trainer.accelerator=cpu", f"data.batch_size={BATCH}"]
        common += ["trainer.log_every_n_steps=10", "trainer.gradient_clip_val=1e12"]  # clips nothing, logs the norm
        with log.open("a") as file:
            subprocess.run(
                [sys.executable, "-m", "lightning_diff", "train", recipe, *common, *settings],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
    return folder


def teacher(options: argparse.Namespace, norm: str) -> Path:
    settings = [
        "model.net.channels=16",
        "model.time=trigflow",
        f"trainer.max_steps={TEACHER_STEPS}",
        "model.learning_rate.warmup=10_000",
        "callbacks.2.every=null",
    ]
    return train(options, f"teacher_{norm}", "digits_edm", *settings, *(DOUBLE if norm == "double" else []))


def student(options: argparse.Namespace, arm: str, seed: int) -> Path:
    images = options.steps * BATCH
    settings = [
        f"seed={seed}",
        f"model.teacher={options.runs / ('teacher_additive' if arm == 'no double normalisation' else 'teacher_double')}",
        f"model.warmup={images // 4}",
        f"trainer.max_steps={options.steps}",
        f"callbacks.3.every={images}",
        f"callbacks.4.n={options.n}",
        f"callbacks.5.n={options.n}",
        *ARMS[arm],
    ]
    recipe = "digits_sct" if options.objective == "training" else "digits_scd"
    folder = train(options, f"{arm.replace(' ', '_').replace('-', '_')}_{seed}", recipe, *settings)
    print(f"{arm}, seed {seed}: done", file=sys.stderr, flush=True)
    return folder


def curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row["value"])) for row in read(folder / "metrics.csv") if row["metric"] == metric]


def facts(folder: Path, steps: int) -> dict[str, float]:
    norms = curve(folder, "train/grad_norm")
    late = [value for step, value in norms if step > steps // 2] or [value for _, value in norms]
    middle = statistics.median(late)
    frechet = {
        row["steps"]: float(row["value"])
        for row in read(folder / "metrics.csv")
        if row["metric"] == "frechet_classifier"
    }
    log = folder.with_suffix(".log").read_text()
    return {
        "median norm": middle,
        "largest / median": max(late) / middle,
        "spikes": len({line for line in log.splitlines() if "times what is usual there" in line}),
        "frechet, 1 step": frechet.get("1", float("nan")),
        "frechet, 2 steps": frechet.get("2", float("nan")),
        "finite": int(stop[1].replace(",", "")) - 1 if (stop := NON_FINITE.search(log)) else steps,
    }


def draw(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=name, linewidth=0.8)
    axes.set(yscale="log", xlabel="step", ylabel="norm of the gradient")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--objective", default="training", choices=["training", "distillation"])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--runs", type=Path, default=Path("runs/consistency_stability"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        norms = ["double"] * (options.arms != ["no double normalisation"])
        norms += ["additive"] * ("no double normalisation" in options.arms)
        list(pool.map(lambda norm: teacher(options, norm), norms))
        jobs = [(arm, seed) for seed in range(options.seeds) for arm in options.arms]
        folders = dict(zip(jobs, pool.map(lambda job: student(options, *job), jobs), strict=True))

    table = {job: facts(folder, options.steps) for job, folder in folders.items()}
    columns = list(next(iter(table.values())))
    with (options.runs / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "seed", *columns])
        writer.writerows([arm, seed, *row.values()] for (arm, seed), row in table.items())
    print(f"| {options.objective}, {options.steps:,} steps of {BATCH} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for arm in options.arms:
        rows = [table[arm, seed] for seed in range(options.seeds)]
        cells = [
            " / ".join(f"{row[column]:.3g}" if column != "finite" else f"{row[column]:,}" for row in rows)
            for column in columns
        ]
        print(f"| {arm} | " + " | ".join(cells) + " |")
    draw({arm: curve(folders[arm, 0], "train/grad_norm") for arm in options.arms}, options.runs / "picture.png")


if __name__ == "__main__":
    main()
