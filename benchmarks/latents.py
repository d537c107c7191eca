"""A latent diffusion model from nothing, on one core: an autoencoder, its latents in a cache, a transformer, decoded samples.

    python -m benchmarks.latents [--cifar cifar10-train.zip] [--encoder-steps 1500] [--steps 1500] [--out runs/latents]

Trains an `AutoencoderKL` of diffusers with some 0.4 million parameters on images of 32x32, which become latents of 8x8x4: those of
`data.PhotoPatches`, and of CIFAR-10 where a zip of it is given. Saves it with `save_pretrained`, its scaling_factor measured; then
everything goes through the command line: `train` of a recipe with `data.Latents` (which encodes the images once), `sample`, and
`evaluate`, whose reference are the source's images. Prints the reconstruction's signal-to-noise ratio on held-out images, and
Fréchet distances: of reconstructions of held-out images, which no sample can be expected to beat, of samples, and of the held-out
images themselves. Pictures: reconstructions.png and samples.png in the folder.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from lightning_diff.artifacts import pictures
from lightning_diff.autoencoders import Diffusers
from lightning_diff.data import Data, Images, PhotoPatches
from lightning_diff.foundation import rng
from lightning_diff.metrics import Reference

CONFIG = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 32, 48],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "sample_size": 32,
    "mid_block_add_attention": False,
}
BATCH, KL = 32, 1e-5  # of each latent's divergence from a normal distribution, beside the mean square error of pixels
MEASURED = 1000  # held-out images


def train_autoencoder(data: Data, folder: Path, steps: int) -> None:
    """Adam, a cosine, reconstruction and a little KL; the batch at step k is a function of k."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(**CONFIG)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    began, loss = time.process_time(), torch.zeros(())
    for step in range(steps):
        index = np.floor(rng.uniform(0, "autoencoder", range(step * BATCH, (step + 1) * BATCH)) * len(data.train))
        images = data.train.images(index.astype(np.int64))
        latents = model.encode(images).latent_dist
        found = model.decode(latents.sample()).sample
        error = (found - images).square().mean()
        loss = error + KL * latents.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 249:
            print(f"  step {step + 1}: mean square error {error.item():.4f}", flush=True)
    with torch.no_grad():
        std = model.encode(
            data.train.images(np.arange(0, len(data.train), max(len(data.train) // 1000, 1)))
        ).latent_dist
        model.register_to_config(scaling_factor=1 / float(std.sample().std()))
    model.save_pretrained(folder)
    parameters = sum(each.numel() for each in model.parameters())
    print(f"autoencoder: {parameters:,} parameters, {steps} steps, {time.process_time() - began:.0f} s of CPU time")


def recipe(source: dict[str, object], autoencoder: Path, steps: int, runs: Path) -> dict[str, object]:
    """A small DiT on the latents."""
    return {
        "name": "dit",
        "runs_dir": str(runs),
        "model": {
            "_target_": "lightning_diff.DiffusionModule",
            "net": {"_target_": "lightning_diff.nets.DiT", "patch_size": 1, "width": 128, "depth": 4, "heads": 4},
            "noise": {"_target_": "lightning_diff.noise.LogNormal", "mean": -0.4, "std": 1.2},
            "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3},
            "learning_rate": {"_target_": "lightning_diff.learning_rate.Cosine", "warmup": 0.05},
        },
        "data": {
            "_target_": "lightning_diff.data.Latents",
            "batch_size": 64,
            "flip": True,
            "source": source,
            "autoencoder": {"_target_": "lightning_diff.autoencoders.Diffusers", "folder": str(autoencoder)},
        },
        "callbacks": [
            {
                "_target_": "lightning_diff.callbacks.EMA",
                "profiles": {"ema": {"_target_": "lightning_diff.ema.HalfLife", "images": 4_000}},
            },
            {"_target_": "lightning_diff.callbacks.NoiseLevels"},
            {"_target_": "lightning_diff.callbacks.SampleGrid"},
        ],
        "trainer": {"accelerator": "cpu", "max_steps": steps, "gradient_clip_val": 1.0, "log_every_n_steps": 50},
    }


def command(*words: object) -> str:
    """One of ours, on one thread; what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "lightning_diff", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def reconstructions(data: Data, autoencoder: Diffusers, folder: Path) -> Tensor:
    """Of held-out images, whose pictures stand above them; prints the peak signal-to-noise ratio."""
    assert data.test is not None
    real = data.test.images(rng.permutation(0, "reconstructed", 0, len(data.test))[:MEASURED])
    found = torch.cat([autoencoder.decode(autoencoder.encode(part)) for part in real.split(100)]).clamp(-1, 1)
    ratio = 10 * torch.log10(4 / (found - real).square().flatten(1).mean(1))  # peak to peak: 2
    rows = torch.cat([part for i in range(0, 40, 10) for part in (real[i : i + 10], found[i : i + 10])])
    pictures.save_grid(folder / "reconstructions.png", rows, columns=10)
    print(
        f"reconstruction of {len(real)} held-out images: {ratio.mean():.2f} dB (standard deviation {ratio.std():.2f})"
    )
    return found


def run(name: str, source: dict[str, object], folder: Path, encoder_steps: int, steps: int) -> None:
    """All of it for one source."""
    print(f"\n{name}", flush=True)
    kind = {"PhotoPatches": PhotoPatches, "Images": Images}[str(source["_target_"]).rpartition(".")[2]]
    data = kind(**{key: value for key, value in source.items() if key != "_target_"})
    if not (folder / "autoencoder" / "config.json").is_file():
        train_autoencoder(data, folder / "autoencoder", encoder_steps)
    autoencoder = Diffusers(folder / "autoencoder")
    found = reconstructions(data, autoencoder, folder)
    (folder / "dit.yaml").write_text(
        yaml.safe_dump(recipe(source, folder / "autoencoder", steps, folder), sort_keys=False)
    )
    command("train", folder / "dit.yaml")
    command("sample", folder / "dit", "-n", 80, "--out", folder / "samples.png", "--device", "cpu")
    command("evaluate", folder / "dit", "-n", MEASURED, "--device", "cpu")
    reference = Reference(data)
    n, values = reference.measure(found)
    metric = next(each for each in values if each.startswith("frechet_"))
    floor = reference.floor(n)[1][metric]
    print(f"{metric} of {n} reconstructions of held-out images {values[metric]:.4g}, of those images {floor:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="zip of CIFAR-10's training images, in EDM's form")
    parser.add_argument("--only-cifar", action="store_true")
    parser.add_argument("--encoder-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("runs/latents"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    sources: dict[str, dict[str, object]] = {}
    if not given.only_cifar:
        sources["photo_patches"] = {"_target_": "lightning_diff.data.PhotoPatches", "batch_size": 1}
    if given.cifar is not None:
        path = str(given.cifar.absolute())
        sources["cifar10"] = {
            "_target_": "lightning_diff.data.Images",
            "batch_size": 1,
            "path": path,
            "test_fraction": 0.1,
        }
    for name, source in sources.items():
        folder = (given.out / name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        run(name, source, folder, given.encoder_steps, given.steps)


if __name__ == "__main__":
    main()
