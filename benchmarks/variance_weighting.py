"""Does weighting by measured loss variance help? Every arm on the same images and noise, over seeds, against matched controls.

    python benchmarks/variance_weighting.py [--seeds 6] [--jobs 2] [--steps 1600] [--runs runs/variance_weighting]
    python benchmarks/variance_weighting.py --images cifar10.zip --arms edm control measured_0.5 --seeds 3

Arms differ in one line of the recipe; a seed fixes initial weights, images, uniforms, noise and samples in all of them.
`control` is EDM with P_std 1.02, the effective width that the published bell gives the noise law (a narrower law, no weights);
`info_control` is a fixed law with the place and width that InfoNoise came to on the digits, at seed 0.
Interrupted, it continues where it was. Prints a table and writes table.csv and picture.png in --runs:

    frechet      mean and standard deviation over seeds at the end, in the classifier's feature space
    vs edm       paired difference over seeds with a 95 % interval (Student's t); negative is better
    vs control   the same against the control
    effort       mean and standard deviation of ln sigma under p w, last quarter: where training effort goes (EDM: -1.2, 1.2)
    spread       max / min over log-SNR of the variance of the *unweighted* loss, last quarter, bins with 500 samples or more
    images       to reach the EDM arm's mean final distance, as a share of its images, linear between evaluations; - if never

With --images, a zip or folder of pictures is averaged down to 16x16 (8,000 training images) and a small network is trained.
The paper (arXiv 2603.10391, table 1: FID of 5,000 images, 3 seeds): CIFAR-10 14.21 +- 0.31 (EDM) to 13.58 +- 0.55 (bell);
CIFAR-100 23.31 +- 1.10 to 20.89 +- 0.74; no control.
"""

import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy.stats import t as student

from lightning_diff.artifacts.metrics_table import read

WEIGHTING, NOISE = "model.weighting._target_=lightning_diff.weighting.", "model.noise._target_=lightning_diff.noise."
BASE = "base: {_target_: lightning_diff.noise.LogNormal}"
ADAPTIVE = f"model.noise={{_target_: lightning_diff.noise.AdaptiveNoise, {BASE}}}"
INFO = f"model.noise={{_target_: lightning_diff.noise.InfoNoise, {BASE}}}"
ARMS: dict[str, list[str]] = {
    "edm": [f"{WEIGHTING}Uniform"],
    "control": [f"{WEIGHTING}Uniform", "model.noise.std=1.02"],
    "bell": [f"{WEIGHTING}LogSNRBell"],
    "gaussian_bell": [f"{WEIGHTING}GaussianBell"],
    "loss_z_score": [f"{WEIGHTING}LossZScore"],
    "learned": [f"{WEIGHTING}LearnedVariance"],
    "measured_0.5": ["model.weighting.gamma=0.5"],
    "measured_1": ["model.weighting.gamma=1.0"],
    "adaptive_noise": [f"{WEIGHTING}Uniform", ADAPTIVE],
    # Variants of the controller.
    "measured_2": ["model.weighting.gamma=2.0"],
    "measured_1_10_bins": ["model.weighting.gamma=1.0", "model.weighting.bins=10"],
    "measured_1_smooth": ["model.weighting.gamma=1.0", "model.weighting.smoothing=4.0"],
    "measured_1_narrow": ["model.weighting.gamma=1.0", "model.noise.std=1.02"],
    "measured_1_adaptive": ["model.weighting.gamma=1.0", ADAPTIVE],
    "info_noise": [f"{WEIGHTING}Uniform", INFO],
    "info_control": [f"{WEIGHTING}Uniform", "model.noise.mean=-0.41", "model.noise.std=1.04"],
    "info_measured": ["model.weighting.gamma=0.5", INFO],
}


def settings(options: argparse.Namespace, arm: str, seed: int) -> list[str]:
    images = options.steps * options.batch
    common = [
        f"name={arm}_{seed}",
        f"seed={seed}",
        f"runs_dir={options.runs}",
        f"trainer.max_steps={options.steps}",
        f"data.batch_size={options.batch}",
        "model.learning_rate.warmup=10_000",
        f"callbacks.0.profiles.ema.images={images // 8}",
        f"model.net.channels={options.channels}",
        "callbacks.2.every=null",
        f"callbacks.3.seed={seed}",
        f"callbacks.3.n={options.n}",
        f"callbacks.3.every={images // options.evaluations}",
        "trainer.accelerator=cpu",
    ]
    if options.images:
        common += [
            f"data={{_target_: lightning_diff.data.Images, path: {options.images.resolve()}, size: 16, limit: 8000, "
            f"test_fraction: 0.1, batch_size: {options.batch}}}",
            "model.net.channel_mult=[1,2]",
        ]
    return common + ARMS[arm]


def train(options: argparse.Namespace, arm: str, seed: int) -> None:
    """One arm and seed in a process of its own, on one thread; a finished one returns at once."""
    if (options.runs / f"{arm}_{seed}" / "model.json").exists():
        return
    with (options.runs / f"{arm}_{seed}.log").open("a") as log:
        subprocess.run(
            [sys.executable, "-m", "lightning_diff", "train", "digits_edm", *settings(options, arm, seed)],
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    print(f"{arm} seed {seed}: {curve(options, arm, seed)[-1][1]:.4f}", file=sys.stderr, flush=True)


def curve(options: argparse.Namespace, arm: str, seed: int) -> list[tuple[int, float]]:
    """(images, Fréchet distance) at each evaluation."""
    rows = read(options.runs / f"{arm}_{seed}" / "metrics.csv")
    return [(int(row["images"]), float(row["value"])) for row in rows if row["metric"] == "frechet_classifier"]


def effort(options: argparse.Namespace, arm: str, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of ln sigma under p w."""
    with (options.runs / f"{arm}_{seed}" / "noise_levels.csv").open() as file:
        rows = [
            row for row in csv.DictReader(line for line in file if not line.startswith("#")) if row["effective_weight"]
        ]
    share = [float(row["effective_weight"]) for row in rows]
    place = [math.log(float(row["sigma"])) for row in rows]
    mean = sum(map(math.prod, zip(share, place, strict=True))) / sum(share)
    square = sum(w * (x - mean) ** 2 for w, x in zip(share, place, strict=True)) / sum(share)
    return mean, math.sqrt(square)


def levels(options: argparse.Namespace, arm: str, seed: int) -> dict[float, tuple[float, float, float]]:
    """log-SNR -> (variance of the unweighted loss, p w, samples)."""
    with (options.runs / f"{arm}_{seed}" / "noise_levels.csv").open() as file:
        rows = [row for row in csv.DictReader(line for line in file if not line.startswith("#")) if row["variance"]]
    return {
        float(row["log_snr"]): (
            float(row["variance"]),
            float(row["density"]) * float(row["weight"]),
            float(row["count"]),
        )
        for row in rows
    }


def reached(points: list[tuple[int, float]], target: float) -> float:
    """Images at which a curve first falls to the target; infinite if it never does."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 <= target:
            return x1 if y0 <= y1 else x0 + (x1 - x0) * max(0.0, (y0 - target) / (y0 - y1))
    return math.inf


def paired(a: list[float], b: list[float]) -> str:
    """Mean difference a - b and its 95 % interval."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.4f}"
    half = student.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.4f} ± {half:.4f}"


def report(options: argparse.Namespace) -> None:
    seeds = range(options.seeds)
    curves = {arm: [curve(options, arm, seed) for seed in seeds] for arm in options.arms}
    finals = {arm: [points[-1][1] for points in each] for arm, each in curves.items()}
    rows = []
    target = statistics.mean(finals["edm"]) if "edm" in finals else math.nan
    for arm in options.arms:
        spreads = []
        for seed in seeds:
            seen = [variance for variance, _, count in levels(options, arm, seed).values() if count >= 500]
            spreads.append(max(seen) / min(seen))
        places = [effort(options, arm, seed) for seed in seeds]
        share = statistics.median(reached(points, target) / points[-1][0] for points in curves[arm])
        rows.append(
            {
                "arm": arm,
                "frechet": f"{statistics.mean(finals[arm]):.4f}"
                + (f" ± {statistics.stdev(finals[arm]):.4f}" if options.seeds > 1 else ""),
                "vs edm": paired(finals[arm], finals["edm"]) if "edm" in finals else "",
                "vs control": paired(finals[arm], finals["control"]) if "control" in finals else "",
                "effort": "{:.2f}, {:.2f}".format(*map(statistics.mean, zip(*places, strict=True))),
                "spread": f"{statistics.mean(spreads):.1f}",
                "images": f"{share:.2f}" if math.isfinite(share) else "-",
            }
        )
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    with (options.runs / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(options, finals)


def draw(options: argparse.Namespace, finals: dict[str, list[float]]) -> None:
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    points, variances, efforts = figure.subplots(1, 3)
    for place, (arm, values) in enumerate(finals.items()):
        colour = colormaps["tab20"](place % 20)
        points.plot([place] * len(values), values, "o", color=colour, alpha=0.8)
        points.plot([place - 0.3, place + 0.3], [statistics.mean(values)] * 2, "k-", lw=2)
        seen = {level: row for level, row in levels(options, arm, 0).items() if row[2] >= 100}
        total = sum(row[1] for row in levels(options, arm, 0).values())
        variances.plot(list(seen), [row[0] for row in seen.values()], lw=1.4, color=colour, label=arm)
        efforts.plot(list(seen), [row[1] / total for row in seen.values()], lw=1.4, color=colour)
    points.set(title="Fréchet distance by seed (bar: mean)", ylabel="distance to the training images, lower is better")
    points.set_xticks(range(len(finals)), list(finals), rotation=45, ha="right")
    variances.set(
        title="Variance of the unweighted loss, seed 0", xlabel="log-SNR (← noisier   cleaner →)", yscale="log"
    )
    efforts.set(title="Training effort: share of p · w, seed 0", xlabel="log-SNR (← noisier   cleaner →)")
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(options.runs / "picture.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one core each")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--n", type=int, default=1000, help="samples for each evaluation")
    parser.add_argument("--evaluations", type=int, default=4)
    parser.add_argument("--images", type=Path, help="pictures to use in place of the digits")
    parser.add_argument("--runs", type=Path, default=Path("runs/variance_weighting"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    # Seed by seed, so that an interrupted comparison is a whole one over fewer seeds.
    jobs = [(arm, seed) for seed in range(options.seeds) for arm in options.arms]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: train(options, *job), jobs))
    report(options)


if __name__ == "__main__":
    main()
