"""One training that moves between machines: 1, 2 and again 1 process, other accumulation, with and without workers."""

from pathlib import Path

import forked
import pytest
import torch

from lightning_diff.artifacts import checkpoints
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

pytestmark = pytest.mark.whole

RECIPE = """
seed: 5
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: lightning_diff.nets.UNet, channels: 16, channel_mult: [1, 1], num_blocks: 1, attention: []}
  weighting: {_target_: lightning_diff.weighting.MeasuredVariance, gamma: 1.0, warmup: 32, refresh: 2, min_count: 1}
  condition_dropout: 0.2
data: {_target_: lightning_diff.data.Digits, batch_size: 16}
callbacks:
  - {_target_: drawn.Drawn}
  - {_target_: lightning_diff.callbacks.EMA}
trainer: {accelerator: cpu, max_steps: 12, log_every_n_steps: 1, gradient_clip_val: 1.0}
"""
DRAWN = """
import hashlib
from pathlib import Path

from lightning.pytorch import Callback

class Drawn(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with Path(trainer.default_root_dir, f"drawn.{trainer.global_rank}").open("a") as file:
            for i, position in enumerate(batch["position"].tolist()):
                hashes = [hashlib.sha256(batch[name][i].numpy().tobytes()).hexdigest() for name in ("image", "noise")]
                print(position, int(batch["label"][i]), float(outputs["log_snr"][i]).hex(), *hashes, file=file)
"""


def drawn(name: str) -> list[str]:
    """What was drawn for each position, in order of position."""
    lines = [line for path in Path("runs", name).glob("drawn.*") for line in path.read_text().splitlines()]
    return sorted(lines, key=lambda line: int(line.split()[0]))


def weights(name: str) -> torch.Tensor:
    state = checkpoints.read(Path("runs", name, "checkpoints", "step_00000012.ckpt"))
    averages = state["callbacks"]["lightning_diff.EMA"]["averages"]["ema"]
    parts = [value for name, value in state["state_dict"].items() if name.startswith("denoiser")] + list(
        averages.values()
    )
    return torch.cat([part.flatten().double() for part in parts])


def test_a_training_that_moves_draws_the_same_and_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("drawn.py").write_text(DRAWN)
    for name in ("plain", "moved"):
        Path(f"{name}.yaml").write_text(RECIPE)

    def train(name: str, *overrides: str) -> None:
        run.train(recipe.load(f"{name}.yaml", overrides), f"{name}.yaml")

    train("plain")
    train("moved", "trainer.max_steps=4", "data.workers=2")
    two = ["trainer.max_steps=8", "trainer.devices=2", "trainer.accumulate_grad_batches=2", "data.workers=0"]
    forked.run_two("train", "moved.yaml", *two)
    train("moved", "trainer.accumulate_grad_batches=4", "data.workers=2")

    assert len(drawn("plain")) == 12 * 16
    assert drawn("moved") == drawn("plain")
    assert Path("runs/moved/drawn.1").exists()
    plain, moved = weights("plain"), weights("moved")
    difference = float((moved - plain).norm() / plain.norm())
    print(f"relative difference of weights and averages: {difference:.2e}")
    assert difference < 1e-6
