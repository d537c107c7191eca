"""Autoencoders of a few hundred weights: one of ours, and folders as diffusers writes them."""

from pathlib import Path

import torch
from torch import nn

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


def saved(folder: Path, kind: str = "AutoencoderKL", **config: object) -> Path:
    """A folder with random weights."""
    import diffusers

    torch.manual_seed(0)
    getattr(diffusers, kind)(**({"AutoencoderKL": KL, "AutoencoderDC": DC}[kind] | config)).save_pretrained(folder)
    return folder
