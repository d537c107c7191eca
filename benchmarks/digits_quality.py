"""How good is the main example? The digits recipe over several seeds, against the floor that held-out real digits set.

    python benchmarks/digits_quality.py [--seeds 5] [--jobs 1] [--runs runs/digits_quality] [key=value ...]

Each seed is a whole run of recipes/digits_edm.yaml (initial weights, examples, noise and samples follow the seed), resumed if it
was interrupted. Prints every metric's mean and standard deviation over seeds beside its floor: held-out images measured against
the training split at the same n.
"""

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_diff.artifacts.metrics_table import read


def train(seed: int, runs: Path, overrides: list[str]) -> None:
    """One seed in a process of its own, on one thread."""
    settings = [f"name=seed{seed}", f"seed={seed}", f"callbacks.3.seed={seed}", f"runs_dir={runs}", *overrides]
    log = runs / f"seed{seed}.log"
    with log.open("a") as file:
        subprocess.run(
            [sys.executable, "-m", "lightning_diff", "train", "digits_edm", *settings],
            check=True,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def final(runs: Path, seed: int) -> dict[str, float]:
    """The quality figures of the last step."""
    rows = [row for row in read(runs / f"seed{seed}" / "metrics.csv") if row["reference"]]
    last = max(int(row["step"]) for row in rows)
    return {row["metric"]: float(row["value"]) for row in rows if int(row["step"]) == last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one core each")
    parser.add_argument("--runs", type=Path, default=Path("runs/digits_quality"))
    options, overrides = parser.parse_known_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda seed: train(seed, options.runs, overrides), range(options.seeds)))

    results = [final(options.runs, seed) for seed in range(options.seeds)]
    print(f"digits_edm, {options.seeds} seeds {' '.join(overrides)}\n")
    print("| metric | mean | std | floor | by seed |\n|---|---|---|---|---|")
    for metric in (name for name in results[0] if not name.endswith("_floor")):
        values = [result[metric] for result in results]
        floor = results[0].get(f"{metric}_floor", float("nan"))
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        each = " ".join(f"{value:.4g}" for value in values)
        print(f"| {metric} | {statistics.mean(values):.4g} | {spread:.2g} | {floor:.4g} | {each} |")


if __name__ == "__main__":
    main()
