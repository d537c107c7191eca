"""The trainings that `benchmarks.faults` kills: what learns, in how many processes, from which examples."""

import json
import tarfile
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_diff.artifacts import save_denoiser
from lightning_diff.denoiser import Denoiser
from lightning_diff.nets import UNet

RECIPE = """
name: faults
model:
  _target_: lightning_diff.DiffusionModule
  net: {{_target_: lightning_diff.nets.UNet, channels: 16, channel_mult: [1], num_blocks: 1, attention: [], dropout: 0.1}}
  optimizer: {{_target_: torch.optim.Adam, _partial_: true, lr: 2.0e-3}}
  condition_dropout: 0.1
data: {{_target_: lightning_diff.data.Digits, batch_size: 32}}
callbacks:
  - {{_target_: benchmarks.fault_runs.Witness}}
  - _target_: lightning_diff.callbacks.EMA
    profiles:
      ema: {{_target_: lightning_diff.ema.HalfLife, images: 1000}}
      wide: {{_target_: lightning_diff.ema.PowerFunction, sigma_rel: 0.1}}
    snapshot_every: {snapshot}
  - {{_target_: lightning_diff.callbacks.NoiseLevels, gradient_every: {gradient}}}
  - {{_target_: lightning_diff.callbacks.SampleGrid, every: {draw}, rows: 2, columns: 4, steps: 4}}
  - {{_target_: lightning_diff.callbacks.Evaluate, every: {evaluate}, n: 128, feature: pixels, steps: 4}}
  - {{_target_: lightning_diff.callbacks.Checkpoint, every_images: {save}, every_minutes: null, keep: 2}}
trainer: {{accelerator: cpu, max_steps: {steps}, gradient_clip_val: 1.0, log_every_n_steps: 7}}
"""
CHECKPOINT = "{_target_: lightning_diff.callbacks.Checkpoint, every_images: 96, every_minutes: null, keep: 2}"
CONSISTENCY = "_target_: lightning_diff.ConsistencyModule, warmup: 400, net: {dropout: 0.1}"
CRITIC = "critic: {{_target_: lightning_diff.modules.Critic, loss: {loss}, every: {every}, start: 0.1, levels: [2.0]}}"
CRITIC_LEVELS = "callbacks.3={_target_: lightning_diff.callbacks.CriticLevels}"  # in place of pictures
MEASURED = ["model.weighting={_target_: lightning_diff.weighting.MeasuredVariance, gamma: 0.5, warmup: 64, refresh: 2}"]
ADAPTIVE = [
    "model.noise={_target_: lightning_diff.noise.AdaptiveNoise, base: {_target_: lightning_diff.noise.LogNormal}, "
    "warmup: 64, refresh: 4}"
]
MODULES = {
    "edm": [],
    "measured_variance": MEASURED,
    "learned_variance": ["model.weighting={_target_: lightning_diff.weighting.LearnedVariance, channels: 32}"],
    "adaptive_noise": ADAPTIVE,
    "both": MEASURED + ADAPTIVE,
    "scd": [f"model={{{CONSISTENCY}, teacher: ../teacher}}"],
    "dmd": [f"model={{{CONSISTENCY}, teacher: ../teacher, {CRITIC.format(loss='dmd', every=3)}}}", CRITIC_LEVELS],
    "sid": [f"model={{{CONSISTENCY}, teacher: ../teacher, {CRITIC.format(loss='sid', every=2)}}}", CRITIC_LEVELS],
    "regression": [  # beside a critic, and killed in the middle of paths
        f"model={{{CONSISTENCY}, teacher: ../teacher, objective: regression, nodes: 4, {CRITIC.format(loss='dmd', every=2)}}}",
        CRITIC_LEVELS,
    ],
    "sct": [f"model={{{CONSISTENCY}, teacher: ../teacher, objective: training}}"],
    "schedule": [
        "model={_target_: lightning_diff.ScheduleModule, model: ../teacher}",
        "model.learner={_target_: lightning_diff.schedules.StickBreaking, steps: 4, width: 32}",
        "model.learner.environment={_target_: lightning_diff.schedules.environments.EndPoint, solver: euler, substeps: 3}",
        "data={_target_: lightning_diff.data.Noise, model: ../teacher, batch_size: 32}",
        "callbacks=[{_target_: benchmarks.fault_runs.Witness}, "
        f"{{_target_: lightning_diff.callbacks.learned_grid.LearnedGrid, every: 320}}, {CHECKPOINT}]",
    ],
    "reward": [
        "model={_target_: lightning_diff.AlignmentModule, model: ../teacher, reward: {_target_: lightning_diff.rewards.Ink}}",
        "model.loss={_target_: lightning_diff.rollouts.RewardLoss, levels: 2}",
        "model.plan={_target_: lightning_diff.rollouts.Plan, prompts: 4, pool: 12, keep: 8, steps: 4, preview_steps: 2}",
        "model.plan.precision=bf16",
        "callbacks=[{_target_: benchmarks.fault_runs.Witness}, "
        "{_target_: lightning_diff.callbacks.EMA, profiles: {ema: {_target_: lightning_diff.ema.HalfLife, images: 1000}}}, "
        "{_target_: lightning_diff.callbacks.Mentor, every: 3, groups: 2, pools: [8, 12], preview_steps: [1, 2], "
        f"threshold: -1, costs: {{bf16: 0.1}}}}, {CHECKPOINT}]",
    ],  # an epoch is 64 examples, 2 steps: checkpoints are in the middle of epochs, too
}
PROCESSES = {
    "one": [],
    "two": ["trainer.devices=2"],
    "sharded": ["trainer.devices=2", "trainer.strategy=model_parallel"],
}
LATENTS = (
    "data={{_target_: lightning_diff.data.Latents, source: {{_target_: lightning_diff.data.Digits, batch_size: 1}}, flip: true, "
    "autoencoder: {{_target_: lightning_diff.autoencoders.Pair, module: {{_target_: benchmarks.{module}}}, "
    "weights: ../autoencoder.safetensors, scale: 1.4}}, encode: {encode}, batch_size: 32}}"
)
EDM2_LATENTS = (
    "data={_target_: lightning_diff.data.EDM2Latents, path: ../latents.zip, images: {_target_: lightning_diff.data.Digits, "
    "batch_size: 1}, autoencoder: {_target_: lightning_diff.autoencoders.Pair, module: {_target_: "
    "benchmarks.fault_kinds.TinyAutoencoder}, weights: ../autoencoder.safetensors}, batch_size: 32}"
)
SOURCES = {
    "digits": [],
    "folder": ["data={_target_: lightning_diff.data.Images, path: ../pictures, test_fraction: 0.5, batch_size: 32}"],
    "zip": ["data={_target_: lightning_diff.data.Images, path: ../pictures.zip, test_fraction: 0.5, batch_size: 32}"],
    "tar": [
        "data={_target_: lightning_diff.data.WebDataset, path: ../shards, hold_out: 200, window: 60, batch_size: 32}"
    ],
    "map": [
        "data={_target_: lightning_diff.data.MapDataset, dataset: {_target_: benchmarks.fault_kinds.Pictures}, "
        "test_dataset: {_target_: benchmarks.fault_kinds.Pictures, first: 200}, batch_size: 32}"
    ],
    "latents": [LATENTS.format(encode="cache", module="fault_runs.WitnessedEncoder")],
    "latents_on_the_fly": [LATENTS.format(encode="fly", module="fault_kinds.TinyAutoencoder")],
    "edm2_latents": [EDM2_LATENTS],
}


@dataclass(frozen=True)
class Kind:
    """A training. Its name is `module-processes-source`, with workers `module-processes-source-workers`."""

    module: str
    processes: str = "one"
    source: str = "digits"
    workers: int = 0

    @property
    def name(self) -> str:
        return "-".join([self.module, self.processes, self.source, *(["workers"] if self.workers else [])])

    @property
    def world(self) -> int:
        return 1 if self.processes == "one" else 2

    @property
    def words(self) -> list[str]:
        workers = [f"data.workers={self.workers}"] if self.workers else []
        return [*MODULES[self.module], *SOURCES[self.source], *PROCESSES[self.processes], *workers]


KINDS = [
    *(Kind(module, processes) for module in MODULES if module != "both" for processes in ("one", "two")),
    *(Kind(module, "sharded") for module in ("edm", "learned_variance")),
    *(Kind("edm", "one", source, workers) for source in ("folder", "zip", "tar", "map") for workers in (0, 2)),
    *(Kind("edm", "two", source) for source in ("folder", "zip", "tar", "map")),
    *(Kind(module, "one", workers=2) for module in ("edm", "scd")),
    *(Kind("edm", processes, source) for processes in ("one", "two") for source in ("latents", "latents_on_the_fly")),
    *(Kind("edm", "one", source, 2) for source in ("latents", "latents_on_the_fly")),
    *(Kind("edm", "two", source, 2) for source in ("latents", "latents_on_the_fly", "edm2_latents")),
    Kind("edm", "one", "edm2_latents"),
]


class Pictures:
    """A map-style dataset of 200 digits."""

    def __init__(self, first: int = 0):
        self.first, self.digits = first, load_digits()

    def __len__(self) -> int:
        return 200

    def __getitem__(self, i: int) -> dict[str, object]:
        if not 0 <= i < 200:
            raise IndexError(i)
        image = torch.from_numpy(self.digits.images[self.first + i] * 15).to(torch.uint8)
        return {"image": image[None], "label": int(self.digits.target[self.first + i])}


class TinyAutoencoder(nn.Module):
    """Latents (1, 4, 4) of digits, with a mean and a standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 2, 2, 2), nn.ConvTranspose2d(1, 1, 2, 2)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.down(images).chunk(2, dim=1)
        return mean, (log_std - 2).exp()

    def decode(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.up(z)
        return decoded


def write_latents(path: Path, autoencoder: TinyAutoencoder) -> None:
    """Means and standard deviations of 400 digits as EDM2's dataset tool writes them, with their labels."""
    digits, labels = load_digits(), []
    images = torch.from_numpy(digits.images[:400] / 8 - 1).float()[:, None]
    with torch.no_grad():
        moments = torch.cat(autoencoder.encode(images), 1).numpy()
    with zipfile.ZipFile(path, "w") as archive:
        for i, (row, label) in enumerate(zip(moments, digits.target, strict=False)):
            name = f"{i // 100:05d}/img-mean-std-{i:08d}.npy"
            labels.append([name, int(label)])
            with archive.open(name, "w") as file:
                np.save(file, row)
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def write_shards(folder: Path, pictures: Path) -> None:
    """The pictures, each in the folder of its class, as tar shards of 100."""
    folder.mkdir()
    paths = sorted(pictures.rglob("*.png"), key=lambda path: path.name)
    for first in range(0, len(paths), 100):
        with tarfile.open(folder / f"{first // 100:03d}.tar", "w") as tar:
            for path in paths[first : first + 100]:
                tar.add(path, path.name)
                label = path.parent.name.encode()
                info = tarfile.TarInfo(path.with_suffix(".cls").name)
                info.size = len(label)
                tar.addfile(info, BytesIO(label))


def new_folder(folder: Path, steps: int) -> Path:
    """With the recipe in it, its cadences in proportion to the number of steps."""
    folder.mkdir(parents=True, exist_ok=True)
    every = {
        "save": steps // 8,
        "snapshot": steps // 5,
        "draw": steps // 3,
        "evaluate": steps // 2,
        "gradient": steps // 4,
    }
    values = {name: 32 * max(1, number) for name, number in every.items()}
    (folder / "faults.yaml").write_text(RECIPE.format(steps=steps, **values))
    return folder


def prepare(root: Path) -> None:
    """What trainings start from, beside their folders: a teacher, an autoencoder, latents, pictures in a folder, a zip and tars."""
    if (root / "prepared.json").exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    net = {"channels": 16, "channel_mult": [1], "num_blocks": 1, "attention": []}
    facts = {"shape": [1, 8, 8], "num_classes": 10}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = Denoiser(UNet(**net, **facts), 0.75)
        autoencoder = TinyAutoencoder()
    save_file(autoencoder.state_dict(), root / "autoencoder.safetensors")
    write_latents(root / "latents.zip", autoencoder)
    save_denoiser(root / "teacher", denoiser, {"_target_": "lightning_diff.nets.UNet", **net, **facts}, **facts)
    digits = load_digits()
    with zipfile.ZipFile(root / "pictures.zip", "w") as archive:
        for i, (pixels, label) in enumerate(zip(digits.images[:400], digits.target, strict=False)):
            path = root / "pictures" / str(label) / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 15).astype("uint8")).save(path)
            archive.write(path, path.relative_to(root / "pictures"))
    write_shards(root / "shards", root / "pictures")
    (root / "prepared.json").write_text(json.dumps(list(MODULES)))
