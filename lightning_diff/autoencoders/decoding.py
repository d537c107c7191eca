"""From samples to what is looked at, measured and rewarded."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..foundation.progress import each
from .protocol import Autoencoder

BATCH = 32  # images are some hundred times as large as the layers of most denoisers' latents


@torch.no_grad()
def as_images(
    samples: Float[Tensor, "n *s"],
    autoencoder: Autoencoder | None,
    device: torch.device | str | None = None,
    batch: int = BATCH,
    progress: bool = False,
) -> Float[Tensor, "n *t"]:
    """Samples of a denoiser as images: decoded where it works on latents, else as they are.

    Args:
        samples: any number, none too.
        autoencoder: of the denoiser; None for one that works on images, or on what is none.
        device: where to decode; None for that of the samples. What comes back is where the samples are.
        batch: images at a time.
        progress: show how many are decoded.
    """
    if autoencoder is None:
        return samples
    if not len(samples):
        return samples.new_zeros(0, *autoencoder.image_shape(samples.shape[1:]))
    parts = samples.split(batch)
    shown = each(parts, "decoding", len(parts), "batch", shown=progress)
    return torch.cat([autoencoder.decode(part.to(device)).to(samples.device) for part in shown])
