"""What the frame costs: a training step under the Trainer with the usual callbacks, against a bare loop on the same step and data.

    python benchmarks/overhead.py [--blocks 150] [--batch 64]

Both train the same U-Net on the same stream with the same clipping and fused Adam, in one process, alternating in blocks of four
steps, so that a drift of the machine's speed meets both. The bare loop does nothing else: no averages, no statistics, no logging.
Time is the process's own, on which other work on the machine has little influence. Prints the mean of a step on each side and the
ratio of the sums, with the standard error that blocks of 32 steps give it: some of the frame's work is done every 32 or every 100
steps, and a median of blocks of four does not see it (it is printed beside: the two said 1.6 % and 4.3 %).
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
GROUP = (
    8  # blocks of the standard error: 32 steps, after which NoiseLevels and MeasuredVariance have done their work once
)

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
        self.clock = time.process_time()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % BLOCK:
            return
        self.trainer_times.append(time.process_time() - self.clock)
        start = time.process_time()
        for _ in range(BLOCK):
            self.bare_step(next(self.batches))
        self.clock = time.process_time()
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
        milliseconds = [1000 * statistics.mean(times) / BLOCK for times in (ours, bare)]
        print("\n| side | ms per step (mean) |\n|---|---|")
        print(f"| Trainer, weighting, EMA, NoiseLevels, default callbacks | {milliseconds[0]:.2f} |")
        print(f"| bare loop | {milliseconds[1]:.2f} |")
        groups = [slice(start, start + GROUP) for start in range(0, len(ours) - GROUP + 1, GROUP)]
        of_groups = [sum(ours[group]) / sum(bare[group]) for group in groups]
        error = statistics.stdev(of_groups) / len(of_groups) ** 0.5 if len(of_groups) > 1 else float("nan")
        median = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
        print(f"\nratio of sums over {len(ours) * BLOCK} steps: {sum(ours) / sum(bare):.3f} ± {error:.3f}")
        print(f"median ratio of blocks of {BLOCK} steps: {median:.3f}")


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
