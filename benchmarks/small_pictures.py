"""One and two steps on real pictures: a teacher of CIFAR-10's classes at 16x16 that one core trains, and its students.

    python -m benchmarks.small_pictures --cifar cifar10-train.zip [--seeds 2]
        [--arms scd bounds "dmd, bounds" "dmd, two steps" regression largest]
        [--first-seed 0] [--classes 1 7] [--teacher-steps 6000] [--steps 2000] [--samples 4000] [--feature classifier]
        [--runs runs/small_pictures]

`--cifar` is a zip of CIFAR-10's training images in EDM's form. Those of the chosen classes (1 and 7: automobiles and horses) go
into pictures.zip, are shrunk to 16x16 (each pixel the mean of four), and a tenth of them is held out. From one teacher, a
class-conditional U-Net of 0.7 million parameters, the students of every arm are trained, `--seeds` of each; finished runs are not
trained again, interrupted ones go on. All through the command line, on one thread.

Every model draws `--samples` images, which are clipped and rounded as pictures are saved; they are measured in draws of 500 and of
2,000, and the figures are means over these: Fréchet distances in the feature space, recall of 500, and of all images the agreement
with the class that was conditioned on and the shares of the rarest and the most frequent class, as the classifier takes them, over
an even share. The floor is held-out pictures. The second level of two steps is searched with samples of another seed. Standard
deviations are over seeds. Writes table.csv, and grids of samples of all models from the same noise: teacher.png, ARM_SEED_1.png and
ARM_SEED_2.png, and all of them, in the order of the table, in models.png. Beside each model stands the CPU time of its training
steps, which other work on the machine may lengthen.
"""

import argparse
import csv
import json
import statistics
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Callback
from torch import Tensor

from lightning_diff import load_denoiser
from lightning_diff.artifacts import pictures
from lightning_diff.data import Images
from lightning_diff.foundation.atomic import replacing
from lightning_diff.metrics import Reference
from lightning_diff.metrics.search_levels import search_levels
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules.sampling import Sampling, choose

from .one_step import BOUNDS, spread, train

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SIDE, FEW, SEARCHED = 16, 500, 1000
LAW = "{_target_: lightning_diff.noise.LogNormal, mean: -1.0, std: 1.4}"  # sCM's for CIFAR-10
# A residual's norm grows with the root of the dimensions: rCM's balance, 0.3 at 3x32x32, comes to about this at 3x16x16.
CRITIC = [
    "model.critic={_target_: lightning_diff.modules.Critic, loss: dmd, weight: 0.5, every: 2, start: 0.4, limits: [-1.0, 1.0], "
    "optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 2.0e-4, betas: [0.9, 0.99], weight_decay: 0.01}}"
]
ARMS: dict[str, list[str]] = {
    "scd": [],
    "bounds": BOUNDS,
    "dmd, bounds": [*BOUNDS, *CRITIC],
    "dmd, two steps": [*BOUNDS, *CRITIC, "model.critic.levels=[0.5]"],
    "regression": [*BOUNDS, "model.objective=regression"],
    "largest": [f"model.noise={{_target_: lightning_diff.noise.WithLargest, share: 0.25, sigma: 80.0, law: {LAW}}}"],
}
COLUMNS = ("few", "many", "recall", "agreement", "smallest", "largest", "seconds")


class Seconds(Callback):
    """Sums the process's time in the steps, over resumes, and leaves it in `seconds.json` in the run folder."""

    def __init__(self) -> None:
        self.total, self.began = 0.0, 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.began = time.process_time()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.total += time.process_time() - self.began

    def on_train_end(self, trainer, pl_module):
        Path(trainer.default_root_dir, "seconds.json").write_text(json.dumps(self.total))

    def state_dict(self) -> dict[str, float]:
        return {"total": self.total}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.total = state_dict["total"]


def of_classes(source: Path, classes: Sequence[int], target: Path) -> None:
    """A zip of these classes' images, numbered from 0."""
    with replacing(target) as temporary, zipfile.ZipFile(source) as whole, zipfile.ZipFile(temporary, "w") as part:
        labels = json.loads(whole.read("dataset.json"))["labels"]
        kept = [[name, classes.index(label)] for name, label in labels if label in classes]
        for name, _ in kept:
            part.writestr(name, whole.read(name))
        names = [NAMES[label] for label in classes]
        part.writestr("dataset.json", json.dumps({"labels": kept, "class_names": names}))


def recipes(options: argparse.Namespace, data: dict[str, object]) -> dict[str, Path]:
    """Of the teacher and of its plain student, as files."""
    scd = {
        "_target_": "lightning_diff.ConsistencyModule",
        "teacher": str(options.runs / "teacher"),
        "noise": yaml.safe_load(LAW),
        "warmup": 0.15,
        "optimizer": {"_target_": "torch.optim.RAdam", "_partial_": True, "lr": 2e-4, "betas": [0.9, 0.99]},
        "learning_rate": {"_target_": "lightning_diff.learning_rate.Cosine"},
    }
    edm = {
        "_target_": "lightning_diff.DiffusionModule",
        "net": {
            "_target_": "lightning_diff.nets.UNet",
            "channels": 16,
            "channel_mult": [1, 2, 4],
            "num_blocks": 1,
            "attention": [],
        },
        "noise": {"_target_": "lightning_diff.noise.LogNormal", "mean": -1.2, "std": 1.2},
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 2e-3, "fused": True},
        # Constant, so that a teacher may end when it is good enough: resume with fewer --teacher-steps.
        "learning_rate": {"_target_": "lightning_diff.learning_rate.Constant", "warmup": 6_400},
    }
    written = {}
    for name, model, steps, clip in (("teacher", edm, options.teacher_steps, 1.0), ("scd", scd, options.steps, None)):
        callbacks = [
            {"_target_": "benchmarks.small_pictures.Seconds"},  # before what takes time of its own
            {
                "_target_": "lightning_diff.callbacks.EMA",
                "profiles": {"ema": {"_target_": "lightning_diff.ema.HalfLife", "images": 8_000}},
            },
            {"_target_": "lightning_diff.callbacks.NoiseLevels"},
        ]
        recipe = {
            "model": model,
            "data": data | {"flip": True, "batch_size": options.batch},
            "callbacks": callbacks,
            "trainer": {"max_steps": steps, "gradient_clip_val": clip},
        }
        written[name] = options.runs / f"{name}.yaml"
        written[name].write_text(yaml.safe_dump(recipe, sort_keys=False))
    return written


class Measured:
    """What is measured of models: samples against the pictures, and a grid of them."""

    def __init__(self, data: Images, options: argparse.Namespace):
        self.reference, self.data, self.options = Reference(data, options.feature), data, options
        self.frechet = f"frechet_{self.reference.extractor.name}"
        self.recall = f"recall_{self.reference.extractor.name}"
        self.drawn: list[Tensor] = []  # what is in the pictures, of all models

    def samples(self, path: Path, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Images as saved, and the classes that they were conditioned on, in turns."""
        n = self.options.samples
        labels = torch.arange(n) % self.data.num_classes
        drawn = generate(
            load_denoiser(path), self.data.shape, range(n), labels, sigmas=sampling.sigmas, solver=sampling.solver
        )
        return pictures.to_uint8(drawn).float() / 127.5 - 1, labels

    def figures(self, path: Path, sampling: Sampling, picture: str) -> dict[str, float]:
        """The columns of one model, and its picture."""
        images, labels = self.samples(path, sampling)
        rows = torch.cat([images[labels == label][:12] for label in range(self.data.num_classes)])
        pictures.save_grid(self.options.runs / f"{picture}.png", rows, columns=12)
        self.drawn.append(rows)

        def means(n: int) -> dict[str, float]:
            draws = [self.reference.measure(*part)[1] for part in zip(images.split(n), labels.split(n), strict=True)]
            return {name: statistics.mean(draw[name] for draw in draws) for name in draws[0]}

        few, many = means(FEW), means(min(2000, self.options.samples))
        shares = [value * self.data.num_classes for name, value in many.items() if name.startswith("class_share/")]
        return {
            "few": few[self.frechet],
            "many": many[self.frechet],
            "recall": few[self.recall],
            "agreement": many.get("label_agreement", float("nan")),
            "smallest": min(shares, default=float("nan")),
            "largest": max(shares, default=float("nan")),
            "seconds": json.loads((path / "seconds.json").read_text()),
        }

    def student(self, path: Path) -> dict[str, dict[str, float]]:
        """With one step and with two."""
        model = load_denoiser(path)
        levels = search_levels(model, self.reference, SEARCHED, seed=99)
        return {
            "1 step": self.figures(path, choose(model, steps=1), f"{path.name}_1"),
            "2 steps": self.figures(path, choose(model, levels=levels), f"{path.name}_2") | {"level": levels[0]},
        }


def report(found: dict[str, list[dict[str, float]]]) -> None:
    """A row for each model, over its seeds."""
    print("| | 500 samples | / teacher | 2,000 samples | / teacher | recall | agreement | classes | CPU seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    teacher = found["teacher"][0]
    for title, seeds in found.items():
        of = {name: [seed[name] for seed in seeds] for name in COLUMNS}
        ratio = {name: [value / teacher[name] for value in of[name]] for name in ("few", "many")}
        cells = [of["few"], ratio["few"], of["many"], ratio["many"], of["recall"], of["agreement"]]
        classes = f"{min(of['smallest']):.2f} to {max(of['largest']):.2f}"
        print(f"| {title} | {' | '.join(map(spread, cells))} | {classes} | {statistics.mean(of['seconds']):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="zip of CIFAR-10's training images, in EDM's form")
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 7])
    parser.add_argument("--arms", nargs="*", default=list(ARMS), metavar="ARM", help="none for the teacher alone")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--teacher-steps", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=4000, help="of each model, a multiple of 2,000")
    parser.add_argument("--feature", choices=["classifier", "rotation"], default="classifier")
    parser.add_argument("--runs", type=Path, default=Path("runs/small_pictures"))
    options = parser.parse_args()
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"--arms: {', '.join(sorted(unknown))}: choose from {', '.join(ARMS)}")
    torch.set_num_threads(1)
    seeds_trained = range(options.first_seed, options.first_seed + options.seeds)
    options.runs = options.runs.absolute()
    options.runs.mkdir(parents=True, exist_ok=True)
    path = options.runs / "pictures.zip"
    if not path.is_file():
        of_classes(options.cifar, options.classes, path)
    given = {"path": str(path), "size": SIDE, "test_fraction": 0.1}
    written = recipes(options, {"_target_": "lightning_diff.data.Images", **given})
    train(str(written["teacher"]), "teacher", options.runs, [])
    for seed in seeds_trained:
        for name in options.arms:
            train(str(written["scd"]), f"{name}_{seed}", options.runs, [f"seed={seed}", *ARMS[name]])

    data = Images(batch_size=options.batch, path=path, size=SIDE, test_fraction=0.1)
    data.setup()
    measured = Measured(data, options)
    floors = {n: measured.reference.floor(n) for n in (FEW, 2000)}
    for n, values in floors.values():
        print(f"{n} held-out pictures: {values[measured.frechet]:.3f}, recall {values[measured.recall]:.3f}")
    teacher = options.runs / "teacher"
    found = {"teacher": [measured.figures(teacher, choose(load_denoiser(teacher)), "teacher")]}
    for name in options.arms:
        seeds = [measured.student(options.runs / f"{name}_{seed}") for seed in seeds_trained]
        for steps in seeds[0]:
            found[f"{name}, {steps}"] = [seed[steps] for seed in seeds]
    pictures.save_grid(options.runs / "models.png", torch.cat(measured.drawn), columns=12)
    with (options.runs / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["model", "seed", *COLUMNS, "level"])
        writer.writeheader()
        for title, rows in found.items():
            writer.writerows({"model": title, "seed": options.first_seed + i, **row} for i, row in enumerate(rows))
    report(found)


if __name__ == "__main__":
    main()
