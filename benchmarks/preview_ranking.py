"""How well do cheap previews rank a pool of seeds? Precision against steps, on trained class-conditional models.

    OMP_NUM_THREADS=1 python benchmarks/preview_ranking.py runs/digits_edm [MORE RUNS] [--pool 96] [--keep 12] [--steps 2 4 6 10]

For each class a pool of seeds is drawn in full precision with many steps, which gives their true ranks, and as previews from the
same noise in every precision and number of steps. Prints, for each reward, Spearman's correlation of preview and true rewards, and
the mean true rank of the `keep` seeds that the previews rank highest and lowest: perfect is (keep + 1) / 2 and its mirror image,
blind is the middle. Numbers are means over classes and models; behind Spearman's the standard deviation over models.

Then what an evaluation costs in each precision on this machine: all precisions in one process, in a new order each round, medians
and quartiles of each round's ratio to float32. nvfp4 and fp8 are emulated on a CPU, exactly but slowly: what they cost elsewhere is
not said here.

Rewards: the log-probability of the class under the project's classifier; the same at temperature 4, where it is less sure of nearly
every image; ink; and sharpness, which hangs on the finest details.

When last run (three digits_edm models, one CPU thread; Spearman for class log-probability / ink / sharpness): fp32 at 4, 6, 10
steps .79 / .96 / .84, .92 / .98 / .93, .98 / 1.00 / .98; bf16 and int8 within .001 of that, fp8 within .007; nvfp4 .76 / .95 / .80,
.88 / .97 / .89, .94 / .99 / .94. A 2-step grid from 80 has its other node at sigma_min = 0.002, and ranks nothing (.19 at most). Of
96 seeds, 12 chosen at each end by 6 steps: mean true ranks 9.7 / 88.4 in fp32, 10.7 / 86.5 in nvfp4 (perfect 6.5 / 90.5). One
evaluation of 256 images: bf16 0.77, int8 1.38 of fp32; emulated fp8 2.5, nvfp4 2.5.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_diff import Denoiser, load_denoiser, schedules
from lightning_diff.data import Digits
from lightning_diff.metrics.classifier import load_or_train
from lightning_diff.precision import quantized_copy
from lightning_diff.rewards import ClassLogProbability, Ink, Reward, Sharpness, scored
from lightning_diff.rollouts.ranking import chosen_ranks, spearman
from lightning_diff.samplers.generate import generate

PRECISIONS = ("fp32", "bf16", "fp8", "int8", "nvfp4")


def copies(denoiser: Denoiser, precisions: list[str]) -> dict[str, Denoiser]:
    return {kind: denoiser if kind == "fp32" else quantized_copy(denoiser, kind) for kind in precisions}


def rewards() -> dict[str, Reward]:
    net = load_or_train(Digits(batch_size=1), "classifier")

    def logits(images: Tensor) -> Tensor:
        return net.logits(net(images))

    return {
        "class log-probability": ClassLogProbability(logits),
        "the same at temperature 4": ClassLogProbability(logits, temperature=4.0),
        "ink": Ink(),
        "sharpness": Sharpness(),
    }


def pools(
    denoiser: Denoiser, by_name: dict[str, Reward], grid: str, steps: int, options: argparse.Namespace
) -> dict[str, Tensor]:
    """(classes, pool) scores by reward, from the same noise whatever the denoiser and the steps."""
    label = torch.arange(10).repeat_interleave(options.pool)
    sigmas = schedules.GRIDS[grid](steps)
    images = generate(
        denoiser,
        (1, 8, 8),
        range(len(label)),
        label,
        sigmas=sigmas,
        solver=options.solver,
        seed=options.seed,
        batch=960,
    )
    images = images.clamp(-1, 1)
    return {name: scored(reward, images, label).reshape(10, -1) for name, reward in by_name.items()}


def seconds(call: Callable[[], Tensor]) -> float:
    """Of this process's own time, whatever else the machine does."""
    start = time.process_time()
    call()
    return time.process_time() - start


@torch.inference_mode()
def costs(by_precision: dict[str, Denoiser], batch: int, rounds: int) -> dict[str, list[float]]:
    """Ratios to float32, one for each round."""
    x, sigma, label = torch.randn(batch, 1, 8, 8), torch.ones(()), torch.arange(batch) % 10
    order, ratios = random.Random(0), {kind: [] for kind in by_precision}
    for number in range(rounds + 2):
        kinds = order.sample(list(by_precision), len(by_precision))
        times = {kind: seconds(lambda kind=kind: by_precision[kind](x, sigma, label)) for kind in kinds}
        for kind in kinds if number >= 2 else ():
            ratios[kind].append(times[kind] / times["fp32"])
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="run folders or model files of class-conditional digits models")
    parser.add_argument("--pool", type=int, default=96)
    parser.add_argument("--keep", type=int, default=12, help="chosen at each end")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 6, 10])
    parser.add_argument("--true-steps", type=int, default=40)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--grid", default="karras", choices=schedules.GRIDS, help="of the previews; true ranks: karras")
    parser.add_argument("--solver", default="dpmpp_2m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rounds", type=int, default=40, help="of the measurement of costs, which needs fp32; 0 for none"
    )
    options = parser.parse_args()

    by_name, found = rewards(), {}
    for path in options.models:
        by_precision = copies(load_denoiser(path).eval(), options.precisions)
        true = pools(load_denoiser(path).eval(), by_name, "karras", options.true_steps, options)
        for steps in options.steps:
            for kind, denoiser in by_precision.items():
                preview = pools(denoiser, by_name, options.grid, steps, options)
                for name in by_name:
                    rho = spearman(preview[name], true[name]).mean().item()
                    order = preview[name].argsort(dim=1, descending=True, stable=True)
                    ranks = chosen_ranks(true[name], order[:, : options.keep], order[:, -options.keep :])
                    found.setdefault((name, kind, steps), []).append((rho, *ranks))

    print(
        f"{len(options.models)} models, 10 classes x {options.pool} seeds, {options.solver}/{options.grid}, true: fp32 at "
        f"{options.true_steps} steps; Spearman ± over models, mean true rank of the chosen top / bottom {options.keep} "
        f"(perfect {(options.keep + 1) / 2:g} / {options.pool - (options.keep - 1) / 2:g})"
    )
    for name in by_name:
        print(f"\n| {name} | " + " | ".join(f"{steps} steps" for steps in options.steps) + " |")
        print("|---" * (len(options.steps) + 1) + "|")
        for kind in options.precisions:
            cells = []
            for steps in options.steps:
                rho, top, bottom = zip(*found[name, kind, steps], strict=True)
                spread = f" ± {statistics.stdev(rho):.3f}" if len(rho) > 1 else ""
                cells.append(
                    f"{statistics.mean(rho):.3f}{spread}, {statistics.mean(top):.1f} / {statistics.mean(bottom):.1f}"
                )
            print(f"| {kind} | " + " | ".join(cells) + " |")
    if options.rounds:
        print("\n| cost of an evaluation | batch 96 | batch 256 |\n|---|---|---|")
        measured = [costs(by_precision, batch, options.rounds) for batch in (96, 256)]
        for kind in options.precisions:
            cells = []
            for ratios in measured:
                low, middle, high = statistics.quantiles(ratios[kind], n=4)
                cells.append(f"{middle:.2f} ({low:.2f} - {high:.2f})")
            print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
