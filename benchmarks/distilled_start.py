"""A distilled start of a consistency model: regression onto the ends of the teacher's own sampling paths (CMT, arXiv 2509.24526).

    python benchmarks/distilled_start.py TEACHER OUT [--steps 1000] [--nodes 16] [--batch 64] [--rate 4e-4] [--seed 0]

From noise at sigma 80 the teacher goes down `--nodes` levels, even in the logarithm, to 0.002 by DPM-Solver++(2M); the network,
which starts with the teacher's weights, learns D(x_i; sigma_i) = x_end at all of them, by squared error. Each batch of paths gives
`--nodes` steps of `--batch` pairs. OUT becomes a model that `model.start` names, its weights averaged with a half-life of 10,000
pairs, its outputs clamped to [-1, 1], as the paths' are. Prints the loss, and the CPU time that it took.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lightning_diff.artifacts import load_denoiser, read_record, save_denoiser
from lightning_diff.denoiser import Denoiser
from lightning_diff.modules.pretrained import trained_with
from lightning_diff.samplers import SOLVERS, Node

SIGMA_MAX, SIGMA_MIN, HALF_LIFE = 80.0, 0.002, 10_000
BOUNDS = (-1.0, 1.0)  # of pictures


@torch.no_grad()
def paths(teacher: Denoiser, noise: Tensor, label: Tensor | None, levels: Tensor) -> tuple[Tensor, Tensor]:
    """(nodes, B, ...) points of the paths at these levels, and (B, ...) where they end."""
    x, nodes, step = levels[0] * noise, [], SOLVERS["dpmpp_2m"].step
    for i, sigma in enumerate(levels):
        nodes.insert(0, Node(sigma, x, teacher(x, sigma, label)))
        if i + 1 < len(levels):
            x = step(teacher, nodes[0], levels[i + 1], nodes[1:2]).x
    return torch.stack([node.x for node in reversed(nodes)]), nodes[0].denoised


def pairs(
    teacher: Denoiser, shape: tuple[int, ...], classes: int, batch: int, levels: Tensor, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    """Batches of points, levels, labels and ends, without end: those of a set of paths in a random order."""
    random = torch.Generator().manual_seed(seed)
    while True:
        label = torch.randint(classes, (batch,), generator=random) if classes else None
        points, ends = paths(teacher, torch.randn(batch, *shape, generator=random), label, levels)
        for part in torch.randperm(points.shape[0] * batch, generator=random).split(batch):
            i, row = part // batch, part % batch
            yield points[i, row], levels[i], None if label is None else label[row], ends[row]


def distil(options: argparse.Namespace) -> None:
    teacher, record = load_denoiser(options.teacher), read_record(options.teacher)
    teacher.bounds = BOUNDS
    student = teacher.around(copy.deepcopy(teacher.net).train())
    student.kind = "consistency"
    average = copy.deepcopy(student.net)
    optimizer = torch.optim.RAdam(student.net.parameters(), lr=options.rate, betas=(0.9, 0.99))
    levels = torch.logspace(math.log10(SIGMA_MAX), math.log10(SIGMA_MIN), options.nodes)
    keep = 0.5 ** (options.batch / HALF_LIFE)
    source = pairs(teacher, record.shape, record.num_classes, options.batch, levels, options.seed)
    began, total = time.process_time(), 0.0
    for step in range(1, options.steps + 1):
        x, sigma, label, end = next(source)
        loss = (student(x, sigma, label) - end).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), student.net.parameters(), strict=True):
                mean.lerp_(weight, 1 - min(keep, step / (step + 9)))
        total += loss.item()
        if step % 100 == 0:
            print(f"{step} steps, {time.process_time() - began:.0f} s of CPU, loss {total / 100:.4f}", flush=True)
            total = 0.0
    average.eval()
    save_denoiser(
        options.out,
        student.around(average),
        record.net,
        shape=record.shape,
        num_classes=record.num_classes,
        class_names=record.class_names,
        ema="ema",
        images=options.steps * options.batch,
        trained_with=trained_with(options.teacher),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    distil(options)


if __name__ == "__main__":
    main()
