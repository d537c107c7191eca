"""Losses of the first 20 steps of three packaged recipes, on one thread: a change of numbers has to change `golden_losses.json`
in the same commit.

    python tests/golden.py          writes the file
"""

import hashlib
import json
import os
import tempfile
from contextlib import chdir
from pathlib import Path

import torch
from lightning.pytorch import Callback

FILE = Path(__file__).with_name("golden_losses.json")
STEPS = 20
# Recipes as packaged, at the rates of their packaged lengths, but for what measures and draws; the second and third start from what
# the first one left. The reward run's epochs are smaller, and its reward needs no classifier.
RUNS = {
    "digits_edm": [
        "callbacks=[{_target_: lightning_diff.callbacks.EMA}, {_target_: golden.Losses}]",
        "model.learning_rate.total=307200",
        "model.learning_rate.warmup=10000",
    ],
    "digits_scd": ["callbacks=[{_target_: golden.Losses}]", "model.learning_rate.total=768000"],
    "digits_reward": [
        "callbacks=[{_target_: golden.Losses}]",
        "model.reward={_target_: lightning_diff.rewards.Ink}",
        "model.plan.prompts=4",
        "model.plan.pool=6",
        "model.plan.keep=4",
        "data.batch_size=96",
    ],
}


class Losses(Callback):
    """Keeps each step's loss, as a float's exact digits, in `losses.json` in the run folder."""

    def __init__(self) -> None:
        self.losses: list[str] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].detach().double().item().hex())

    def on_train_end(self, trainer, pl_module):
        Path(trainer.default_root_dir, "losses.json").write_text(json.dumps(self.losses))


def machine() -> dict[str, str]:
    """What the last digits of a sum depend on, beside the code: of one instruction set, kernels still differ by processor."""
    known = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return known
    own = [line for line in lines if line.partition("\t")[0].strip() in ("cpu family", "model", "cache size", "flags")]
    return known | {"processor": hashlib.sha256("\n".join(sorted(set(own))).encode()).hexdigest()[:16]}


def train_all(folder: Path) -> dict[str, list[str]]:
    """The losses of all runs, trained in this folder."""
    from lightning_diff.runs import recipe
    from lightning_diff.runs.train import train

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with chdir(folder):
            for name, words in RUNS.items():
                words = [*words, f"trainer.max_steps={STEPS}", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"]
                train(recipe.load(name, words), recipe.find(name))
            return {name: json.loads((Path("runs") / name / "losses.json").read_text()) for name in RUNS}
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        losses = train_all(Path(folder))
    FILE.write_text(json.dumps({"machine": machine(), "losses": losses}, indent=1) + "\n")
    for name, values in losses.items():
        print(name, *(f"{float.fromhex(value):.6f}" for value in (values[0], values[-1])))


if __name__ == "__main__":
    main()
