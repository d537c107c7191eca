"""How long training stands still while a checkpoint is written, and which share of its time that is at the default interval.

    python benchmarks/saving.py [--saves 5]

The main example, and the CIFAR-10 recipe's full network (56 million parameters, Adam, one average) on random images. A step
is followed by a save; the first one is left out. The checkpoint is gathered, written, flushed to the disk, hashed and renamed
while training waits. "share" is the median save over ten minutes, the default interval.
"""

import argparse
import contextlib
import importlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_diff.artifacts import checkpoints
from lightning_diff.callbacks import Checkpoint
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

CASES = {
    "digits_edm": ["model.weighting.warmup=0"],
    "cifar10_edm": [
        "data={_target_: lightning_diff.data.Images, path: images, batch_size: 1, workers: 0}",
        "trainer.precision=32-true",
    ],
}


class Timed(Checkpoint):
    """Notes the seconds of each save."""

    seconds: list[float] = []  # noqa: RUF012 (of all runs of this process)

    def _save(self, trainer: Any, pl_module: Any) -> Path:
        start = time.perf_counter()
        path = super()._save(trainer, pl_module)
        self.seconds.append(time.perf_counter() - start)
        return path


def measure(name: str, saves: int, home: Path) -> tuple[float, int]:
    """Median seconds and bytes of a save."""
    batch = 1 if name == "cifar10_edm" else 128
    callbacks = (
        "callbacks=[{_target_: lightning_diff.callbacks.EMA}, {_target_: lightning_diff.callbacks.NoiseLevels}, "
    )
    callbacks += f"{{_target_: saving.Timed, every_images: {batch}, every_minutes: null}}]"
    overrides = [f"runs_dir={home}", "trainer.accelerator=cpu", f"trainer.max_steps={saves + 1}", f"name={name}"]
    source = recipe.find(name)
    settings = recipe.load(source, [*overrides, *CASES[name], callbacks])
    saving = importlib.import_module("saving")  # as the recipe does, and not a second time as __main__
    saving.Timed.seconds.clear()
    run.train(settings, source)
    path = checkpoints.newest(home / name / "checkpoints")
    assert path is not None
    return statistics.median(saving.Timed.seconds[1:]), path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| recipe | checkpoint | median save | share |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home, contextlib.chdir(home):
        Path("images").mkdir()
        for i in range(8):
            np.save(f"images/{i}.npy", np.random.default_rng(i).integers(0, 256, (3, 32, 32), dtype=np.uint8))
        for name in CASES:
            seconds, size = measure(name, options.saves, Path(home))
            print(f"| {name} | {size / 1e6:.1f} MB | {seconds:.3f} s | {seconds / 600:.3%} |")


if __name__ == "__main__":
    main()
