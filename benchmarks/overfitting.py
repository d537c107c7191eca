"""Overfitting seen by the callback Validation: a network that remembers 200 digits, and one that trains on all of them.

    python -m benchmarks.overfitting [--steps 3000] [--folder runs/overfitting]

Prints, for both, the unweighted loss of held-out and training images at the end, over the training law and at low, middle and high
noise, each with its standard error; the pictures are noise_levels.png in the two run folders.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lightning_diff.artifacts import validation
from lightning_diff.data import Digits
from lightning_diff.data.part import Part
from lightning_diff.runs import recipe
from lightning_diff.runs.train import train

BANDS = {"high noise, log-SNR below -2": (-10.0, -2.0), "middle": (-2.0, 2.0), "low noise, above 2": (2.0, 8.0)}


@dataclass(eq=False, kw_only=True)
class FewDigits(Digits):
    """The first `few` training digits, evenly over the classes, and all that are held out."""

    few: int = 200

    def load(self):
        train_set, test = super().load()
        order = torch.argsort(train_set.label(torch.arange(len(train_set))), stable=True).numpy()
        places = np.sort(order[np.arange(self.few) * len(order) // self.few])
        return Part(train_set, places, "few digits"), test


def band(rows: list[validation.Level], low: float, high: float) -> str:
    """Means over levels, with the standard error of the mean."""
    some = [row for row in rows if low <= row.log_snr < high]
    means = [float(np.mean([getattr(row, name) for row in some])) for name in ("loss", "train_loss")]
    errors = [
        float(np.sqrt(np.sum(np.square([getattr(row, name) for row in some]))) / len(some))
        for name in ("standard_error", "train_standard_error")
    ]
    return f"held out {means[0]:.4f} ± {errors[0]:.4f}, training {means[1]:.4f} ± {errors[1]:.4f}, ratio {means[0] / means[1]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--folder", type=Path, default=Path("runs/overfitting"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data = {"few": "{_target_: benchmarks.overfitting.FewDigits, batch_size: 128}", "all": None}
    own = "lightning_diff.callbacks"
    profile = "{ema: {_target_: lightning_diff.ema.HalfLife, images: 20_000}}"
    every = chosen.steps * 128 // 5
    for name, node in data.items():
        overrides = [
            f"name={name}",
            f"runs_dir={chosen.folder}",
            f"trainer.max_steps={chosen.steps}",
            f"callbacks=[{{_target_: {own}.EMA, profiles: {profile}}}, {{_target_: {own}.NoiseLevels}}, "
            f"{{_target_: {own}.Validation, every: {every}}}]",
            *([] if node is None else [f"data={node}"]),
        ]
        train(recipe.load("digits_edm", overrides), recipe.find("digits_edm"))
        rows = validation.latest(validation.read(chosen.folder / name))
        print(f"\n{name}: unweighted loss after {rows[0].images:,} images")
        for words, (low, high) in BANDS.items():
            print(f"  {words}: {band(rows, low, high)}")


if __name__ == "__main__":
    main()
