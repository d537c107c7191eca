"""Autoencoders of a few hundred weights: one of ours, and folders as diffusers writes them."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lightning_diff.autoencoders import EDM2_NORMALISATION

KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 4],
    "norm_num_groups": 2,
    "latent_channels": 2,
    "sample_size": 16,
}
DC = {
    "latent_channels": 4,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": [4, 8],
    "decoder_block_out_channels": [4, 8],
    "encoder_layers_per_block": [1, 1],
    "decoder_layers_per_block": [1, 1],
    "encoder_qkv_multiscales": [[], []],
    "decoder_qkv_multiscales": [[], []],
    "scaling_factor": 0.5,
}


class Halves(nn.Module):
    """Averages 2x2 pixels and tells their spread apart; repeats them on the way back."""

    def __init__(self, channels: int = 1, spread: float = 0.1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("spread", torch.tensor(spread))

    def encode(self, images):
        mean = nn.functional.avg_pool2d(images, 2) * self.weight[:, None, None]
        return mean, self.spread.expand_as(mean)

    def decode(self, z):
        return (z / self.weight[:, None, None]).repeat_interleave(2, -1).repeat_interleave(2, -2)


class Killed(Halves):
    """Kills its process at image number $KILLED_AT, if that is said, by $KILLED_BY, a signal's name."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def encode(self, images):
        self.count += len(images)
        if self.count > int(os.environ.get("KILLED_AT", sys.maxsize)):
            os.kill(os.getpid(), getattr(signal, os.environ.get("KILLED_BY", "SIGKILL")))
        return super().encode(images)


def saved(folder: Path, kind: str = "AutoencoderKL", **config: object) -> Path:
    """A folder with random weights."""
    import diffusers

    torch.manual_seed(0)
    getattr(diffusers, kind)(**({"AutoencoderKL": KL, "AutoencoderDC": DC}[kind] | config)).save_pretrained(folder)
    return folder


class Eighths(nn.Module):
    """Latents of four channels, an eighth of the size: Stable Diffusion's shapes."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 8, 8), nn.ConvTranspose2d(4, 3, 8, 8)

    def encode(self, images):
        return self.down(images)

    def decode(self, z):
        return self.up(z)


def write_latents(folder: Path, count: int, shape: tuple[int, int, int], classes: int = 0) -> Path:
    """Raw means and standard deviations as EDM2's dataset tool names and stores them."""
    random, labels = np.random.default_rng(0), []
    normal = EDM2_NORMALISATION
    for i in range(count):
        name = f"{i:08d}"[:5] + f"/img-mean-std-{i:08d}.npy"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mean = normal.undo(torch.from_numpy(random.standard_normal((1, *shape)) * 0.5))[0].numpy()
        std = random.random(shape) * 0.1
        np.save(folder / name, np.concatenate([mean, std]).astype(np.float32))
        labels.append([name, i % classes] if classes else None)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels if classes else None}))
    return folder


class Sized:
    """A reward that takes images of one size alone."""

    def __init__(self, side: int):
        self.side = side

    def __call__(self, images, label):
        assert images.shape[2:] == (self.side, self.side)
        return images.mean((1, 2, 3))
