"""What the frame costs: a training step under the Trainer with the usual callbacks, against a bare loop on the same step and data.

    python benchmarks/overhead.py [--blocks 150] [--batch 64]

Both train the same U-Net on the same stream with the same clipping and fused Adam, in one process, alternating in blocks of four
steps, so that a drift of the machine's speed meets both. The bare loop does nothing else: no averages, no statistics, no logging.
Prints the median time of a step on each side, and the median and quartiles of the block-by-block ratio.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_diff.data import loader
from lightning_diff.denoiser import Denoiser
from lightning_diff.nets import UNet
from lightning_diff.noise import LogNormal
from lightning_diff.objectives import denoising_loss
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

BLOCK = 4

RECIPE = """
model:
  _target_: lightning_diff.DiffusionModule
  net: {{_target_: lightning_diff.nets.UNet, channels: 32, channel_mult: [1, 1], num_blocks: 1, attention: []}}
  weighting: {{_target_: lightning_diff.weighting.MeasuredVariance}}
  optimizer: {{_target_: torch.optim.Adam, _partial_: true, lr: 1.0e-3, fused: true}}
data: {{_target_: lightning_diff.data.Digits, batch_size: {batch}}}
callbacks:
  - {{_target_: lightning_diff.callbacks.EMA}}
  - {{_target_: lightning_diff.callbacks.NoiseLevels}}
  - {{_target_: overhead.Alternate, blocks: {blocks}}}
trainer: {{accelerator: cpu, max_steps: {steps}, gradient_clip_val: 1.0}}
"""


class Alternate(Callback):
    """After every block of steps under the Trainer, as many bare ones; keeps the time of each block."""

    def __init__(self, blocks: int):
        self.blocks = blocks
        self.trainer_times: list[float] = []
        self.bare_times: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        data = trainer.datamodule.data
        net = UNet(data.shape, data.num_classes, channels=32, channel_mult=[1, 1], num_blocks=1, attention=[])
        self.denoiser, self.law = Denoiser(net, data.sigma_data), LogNormal()
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        self.batches = iter(loader(data, seed=0))
        self.clock = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % BLOCK:
            return
        self.trainer_times.append(time.perf_counter() - self.clock)
        start = time.perf_counter()
        for _ in range(BLOCK):
            self.bare_step(next(self.batches))
        self.clock = time.perf_counter()
        self.bare_times.append(self.clock - start)

    def bare_step(self, batch: dict[str, torch.Tensor]) -> None:
        sigma = self.law.icdf(batch["u"]).float()
        loss = denoising_loss(self.denoiser, batch["image"], sigma, batch["noise"], batch["label"]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        self.optimizer.step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        ours, bare = self.trainer_times[2:], self.bare_times[2:]  # the first blocks warm caches
        ratios = [a / b for a, b in zip(ours, bare, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        milliseconds = [1000 * statistics.median(times) / BLOCK for times in (ours, bare)]
        print("\n| side | ms per step (median) |\n|---|---|")
        print(f"| Trainer, weighting, EMA, NoiseLevels, default callbacks | {milliseconds[0]:.2f} |")
        print(f"| bare loop | {milliseconds[1]:.2f} |")
        print(f"\nratio over {len(ratios)} paired blocks: median {median:.3f}, quartiles {low:.3f} to {high:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=150)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overhead_run.yaml"
        path.write_text(RECIPE.format(batch=options.batch, blocks=options.blocks, steps=options.blocks * BLOCK))
        run.train(recipe.load(path, [f"runs_dir={folder}/runs"]), path)


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parent))  # the recipe names overhead.Alternate
    main()
