"""A training on a large data set that says which examples it saw and how much memory it held, killed once and resumed."""

import csv
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from lightning.pytorch import Callback
from torch import Tensor

ROOT = Path(__file__).parents[1]
EXAMPLES, MEMORY = "examples.csv", "memory.csv"
RECIPE = """
model:
  _target_: lightning_diff.DiffusionModule
  net: {{_target_: lightning_diff.nets.DiT, patch_size: 16, width: 32, depth: 1, heads: 2}}
  optimizer: {{_target_: torch.optim.Adam, _partial_: true, lr: 1.0e-3}}
data: {{_target_: lightning_diff.data.{source}, path: {path}, batch_size: {batch}, workers: {workers}}}
callbacks:
  - {{_target_: benchmarks.shard_training.Witness}}
  - {{_target_: lightning_diff.callbacks.Checkpoint, every_images: {save}, every_minutes: null, keep: 2}}
trainer: {{accelerator: cpu, max_steps: {steps}}}
"""


def lines_of(batch: Mapping[str, Tensor]) -> Iterator[tuple[int, int, str]]:
    """Position, label and hash of the pixels of each example."""
    for position, label, image in zip(
        batch["position"].tolist(), batch["label"].tolist(), batch["image"].cpu(), strict=True
    ):
        yield position, label, hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]


def digest(examples: Mapping[int, tuple[int, int, str]], count: int) -> str:
    """Of the first examples, in order of position; KeyError where one is missing."""
    return hashlib.sha256(repr([examples[position] for position in range(count)]).encode()).hexdigest()[:16]


class Witness(Callback):
    """Writes the examples of every step and, 20 times, the memory of this process and its workers into the run folder."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        folder = Path(trainer.default_root_dir)
        with (folder / EXAMPLES).open("a", newline="") as file:
            csv.writer(file).writerows(lines_of(batch))
        if trainer.global_step % max(trainer.max_steps // 20, 1) == 0:
            with (folder / MEMORY).open("a", newline="") as file:
                csv.writer(file).writerow((trainer.global_step, *(round(each, 1) for each in resident())))


def resident() -> tuple[float, float]:
    """MiB of this process and its workers: private, and of mapped files."""
    found = [0.0, 0.0]
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("RssAnon", "RssFile"):
                found[name == "RssFile"] += int(value.split()[0]) / 1024
    return found[0], found[1]


def killed_and_resumed(
    folder: Path, source: str, path: Path, batch: int, count: int, steps: int, workers: int, seed: int
) -> tuple[str, int, list[tuple[int, ...]]]:
    """One training, killed with SIGKILL at a step drawn from `seed`, and resumed by the same command.

    Args:
        folder: for the run.
        source, path: of the data.
        batch: images per step.
        count: examples that the digest is of.
        steps: in all; the kill is while the first `count` examples are drawn.
        workers: of the loader.

    Returns:
        The digest of the first examples; the step of the kill; rows of step and MiB, private and mapped, after the resumption.
    """
    folder.mkdir(parents=True)
    recipe = folder / "shapes.yaml"
    text = RECIPE.format(source=source, path=path, batch=batch, workers=workers, steps=steps, save=count // 5)
    recipe.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "lightning_diff", "train", str(recipe), "name=run", f"runs_dir={folder}"]
    examples, at = folder / "run" / EXAMPLES, random.Random(seed).randrange(count // 10, count)
    log = (folder / "log.txt").open("w")
    with subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True) as process:
        while process.poll() is None and not (examples.exists() and examples.read_bytes().count(b"\n") >= at):
            time.sleep(0.02)
        if process.poll() is not None:
            raise RuntimeError(f"the training ended before it was killed: {folder}/log.txt")
        os.killpg(process.pid, signal.SIGKILL)
    lines = len(_rows(examples))
    subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    seen: dict[int, tuple[int, int, str]] = {}
    for position, label, pixels in _rows(examples):
        row = (int(position), int(label), pixels)
        if seen.setdefault(row[0], row) != row:
            raise RuntimeError(f"position {position} showed two examples: {seen[row[0]]} and {row}")
    memory = [tuple(map(float, row)) for row in _rows(folder / "run" / MEMORY)]
    return digest(seen, count), lines // batch, memory


def _rows(path: Path) -> list[list[str]]:
    """Those that are whole: a kill may cut the last one."""
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if len(row) == 3 and (path.name == MEMORY or len(row[2]) == 16)]


torch.set_num_threads(1)
