"""What the second level of two steps trades: distance, precision and recall of consistency models by it.

    python benchmarks/second_level.py RUN ... [--levels 0.15 0.25 0.4 0.6 0.9 1.5 2.5] [--draws 8]

A row for each run as it samples in one step, and in two with each of these levels second; for a denoiser one as it samples. Draws
have as many samples as there are held-out images; the figures are means over them.
"""

import argparse
import statistics
from pathlib import Path

import torch

from lightning_diff import load_denoiser
from lightning_diff.metrics import Reference
from lightning_diff.metrics.evaluate_denoiser import evaluate_denoiser
from lightning_diff.runs import recipe
from lightning_diff.runs.build import build_data
from lightning_diff.schedules.sampling import choose

NAMES = ("frechet", "precision", "recall")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.15, 0.25, 0.4, 0.6, 0.9, 1.5, 2.5])
    parser.add_argument("--draws", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| run | second level | {' | '.join(NAMES)} |\n|---|---|---|---|---|")
    for run in options.runs:
        data = build_data(recipe.load(run), run)
        reference, model = Reference(data), load_denoiser(run)
        ways = {"": choose(model)}
        if model.kind == "consistency":
            ways = {"one step": choose(model, steps=1)}
            ways |= {f"{level:g}": choose(model, levels=[level]) for level in options.levels}
        for second, sampling in ways.items():
            draws = [evaluate_denoiser(model, reference, sampling=sampling, seed=seed) for seed in range(options.draws)]
            means = [
                statistics.mean(next(row.value for row in rows if row.metric.startswith(f"{name}_")) for rows in draws)
                for name in NAMES
            ]
            print(f"| {run.name} | {second} | {' | '.join(f'{mean:.3f}' for mean in means)} |", flush=True)


if __name__ == "__main__":
    main()
