"""Does a critic bring one step to the exact density? Gaussians in the plane, an MLP: the teacher, sCD, and sCD beside a critic.

    OMP_NUM_THREADS=1 python benchmarks/one_step_mixture.py [--density grid] [--steps 3000] [--seeds 1]

Every arm has the same number of optimiser steps; of those of an arm with a critic, one in `--every` moves the student after
`--start` of the run. Finished runs are not trained again. Prints, of 20,000 samples with averaged weights:

    distance     sliced Wasserstein-2 distance to as many exact draws, over 200 directions; the floor is that of two exact sets
    modes        of 25 on the grid, 8 on the ring: those whose disc of three standard deviations has at least a fifth of the
                 samples that it should have
    evenness     smallest and largest share of a mode's samples, 1 for what it should have
    on a mode    share of the samples in one of these discs; 0.989 of exact draws are
"""

import argparse
import math
import statistics
from pathlib import Path

import torch
from torch import Tensor

from lightning_diff import load_denoiser
from lightning_diff.data import Toy
from lightning_diff.foundation import rng
from lightning_diff.runs import recipe
from lightning_diff.runs.train import train
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules.sampling import choose

N, DIRECTIONS = 20_000, 200
RECIPE = """
data: {_target_: lightning_diff.data.Toy, density: %s, batch_size: %d}
callbacks:
  - _target_: lightning_diff.callbacks.EMA
    profiles: {ema: {_target_: lightning_diff.ema.PowerFunction, sigma_rel: 0.1}}
trainer: {accelerator: cpu, max_steps: 3000, log_every_n_steps: 250}
"""
TEACHER = """
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: lightning_diff.nets.MLP, width: %d, depth: 3}
  optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 2.0e-3}
  learning_rate: {_target_: lightning_diff.learning_rate.Cosine, warmup: 0.03}
"""
STUDENT = """
model:
  _target_: lightning_diff.ConsistencyModule
  teacher: %s
  noise: {_target_: lightning_diff.noise.LogNormal, mean: -1.0, std: 1.8}
  warmup: 0.1
  optimizer: {_target_: torch.optim.RAdam, _partial_: true, lr: 3.0e-4, betas: [0.9, 0.99]}
  learning_rate: {_target_: lightning_diff.learning_rate.Cosine}
"""
CRITIC = """
  critic:
    _target_: lightning_diff.modules.Critic
    loss: %s
    weight: %g
    every: %d
    start: %g
    levels: %s
    optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: %g, betas: [0.9, 0.99]}
"""


def trained(name: str, text: str, options: argparse.Namespace, seed: int) -> Path:
    """The folder of a run, which is trained if it is not there."""
    folder = options.runs / name
    if not (folder / "model.json").exists():
        path = options.runs / f"{name}.yaml"
        path.write_text(
            f"name: {name}\nseed: {seed}\nruns_dir: {options.runs}\n{text}{RECIPE % (options.density, options.batch)}"
        )
        train(recipe.load(path, [f"trainer.max_steps={options.steps}"]), path)
    return folder


def figures(x: Tensor, exact: Tensor, data: Toy) -> tuple[float, float, float, float, float]:
    """distance, modes, smallest and largest share of a mode, share on a mode."""
    weights, means, stds, _ = data.mixture()
    distance, nearest = torch.cdist(x, means).min(1)
    on = distance < 3 * stds[nearest]
    within = 1 - math.exp(-4.5)  # of a Gaussian in the plane, inside of three standard deviations
    shares = torch.bincount(nearest[on], minlength=len(means)) / (len(x) * weights * within)
    covered = (shares >= 0.2).sum()
    return sliced(x, exact), float(covered), float(shares.min()), float(shares.max()), float(on.double().mean())


def sliced(x: Tensor, y: Tensor) -> float:
    """Sliced Wasserstein-2 distance of two sets of as many points in the plane."""
    angle = torch.arange(DIRECTIONS, dtype=torch.float64) * (math.pi / DIRECTIONS)
    directions = torch.stack([angle.cos(), angle.sin()])
    gaps = (x @ directions).sort(0).values - (y @ directions).sort(0).values
    return float(gaps.square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", default="grid", choices=["grid", "ring"])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--start", type=float, default=0.3)
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=3e-4, help="of the critic's optimiser")
    parser.add_argument("--levels", nargs="*", type=float, default=[], help="of the student's further steps")
    parser.add_argument("--arms", nargs="+", default=["scd", "dmd", "sid"], choices=["scd", "dmd", "sid"])
    parser.add_argument("--runs", type=Path, default=Path("runs/one_step_mixture"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    data = Toy(density=options.density, batch_size=options.batch)
    data.setup()
    exact, other = (data.sample(torch.arange(start, start + N).numpy())[0] for start in (2**20, 2**21))
    rows: dict[str, list[tuple[float, ...]]] = {"exact draws": [figures(other, exact, data)]}
    for seed in range(options.seeds):
        teacher = trained(f"teacher_{seed}", TEACHER % options.width, options, seed)
        samplings = {"teacher, 35 evaluations": (teacher, None)}
        for arm in options.arms:
            chosen = (arm, options.weight, options.every, options.start, options.levels, options.rate)
            critic = "" if arm == "scd" else CRITIC % chosen
            samplings |= {
                f"{arm}, {steps} step": (trained(f"{arm}_{seed}", STUDENT % teacher + critic, options, seed), steps)
                for steps in (1, 2)
            }
        for title, (folder, steps) in samplings.items():
            model = load_denoiser(folder)
            sampling = choose(model, steps=steps)
            x = generate(
                model, (2,), range(N), sigmas=sampling.sigmas, solver=sampling.solver, seed=rng.key(seed, "oracle")
            )
            rows.setdefault(title, []).append(figures(x.double(), exact, data))
    turns = f"the student in one of {options.every} from {options.start:g} of the run on, weight {options.weight:g}"
    print(f"{options.density}: {options.steps} steps of {options.batch}, {turns}")
    print("| | distance | modes | evenness | on a mode |\n|---|---|---|---|---|")
    for title, values in rows.items():
        distance, modes, low, high, on = (statistics.mean(column) for column in zip(*values, strict=True))
        print(f"| {title} | {distance:.4f} | {modes:g} | {low:.2f} to {high:.2f} | {on:.3f} |")


if __name__ == "__main__":
    main()
