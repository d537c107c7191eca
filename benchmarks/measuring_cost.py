"""What measuring the loss per noise level costs: MeasuredVariance, AdaptiveNoise and NoiseLevels, inside the steps they measure.

    python benchmarks/measuring_cost.py [--steps 600] [--batch 64]

A training under the Trainer with all three; the time spent in each is taken in the same steps as the time of the rest, so that
what slows the machine slows both. Prints milliseconds per step, averaged over all steps, because some of the work is done only
every 10, 32 or 100 steps; and the share: measuring over everything else. Time is the process's own, so that other work on the
machine matters less.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_diff.callbacks import NoiseLevels
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

RECIPE = """
model:
  _target_: lightning_diff.DiffusionModule
  net: {{_target_: lightning_diff.nets.UNet, channels: 32, channel_mult: [1, 1], num_blocks: 1, attention: []}}
  weighting: {{_target_: lightning_diff.weighting.MeasuredVariance}}
  noise: {{_target_: lightning_diff.noise.AdaptiveNoise, base: {{_target_: lightning_diff.noise.LogNormal}}}}
data: {{_target_: lightning_diff.data.Digits, batch_size: {batch}}}
callbacks:
  - {{_target_: measuring_cost.Clock, skip: 20}}
  - {{_target_: lightning_diff.callbacks.NoiseLevels}}
trainer: {{accelerator: cpu, max_steps: {steps}, gradient_clip_val: 1.0}}
"""


class Clock(Callback):
    """Takes the time of each part and of the whole, after the first steps."""

    def __init__(self, skip: int):
        self.skip = skip
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps, self.start = 0, 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        levels = next(callback for callback in trainer.callbacks if isinstance(callback, NoiseLevels))
        self._time(levels, "on_train_batch_end", "NoiseLevels")
        self._time(pl_module.weighting, "forward", "MeasuredVariance")
        self._time(pl_module.weighting, "update", "MeasuredVariance")
        for method in ("icdf", "importance", "update"):
            self._time(pl_module.noise, method, "AdaptiveNoise")

    def _time(self, part: Any, method: str, name: str) -> None:
        plain: Callable[..., Any] = getattr(part, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = plain(*args, **kwargs)
            self.seconds[name] += time.process_time() - start
            return result

        setattr(part, method, timed)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.skip:
            self.seconds.clear()
            self.start = time.process_time()
        self.steps = batch_idx - self.skip + 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.total = time.process_time() - self.start  # before the other callbacks' work in the last step

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        measuring = sum(self.seconds.values())
        print("\n| part | ms per step |\n|---|---|")
        for name, seconds in self.seconds.items():
            print(f"| {name} | {1000 * seconds / self.steps:.3f} |")
        rest = self.total - measuring
        print(
            f"| everything else | {1000 * rest / self.steps:.2f} |\n\nshare {measuring / rest:.2%} over {self.steps} steps"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measuring.yaml"
        path.write_text(RECIPE.format(batch=options.batch, steps=options.steps))
        run.train(recipe.load(path, [f"runs_dir={folder}/runs"]), path)


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parent))  # the recipe names measuring_cost.Clock
    main()
