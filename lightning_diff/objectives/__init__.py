"""Training objectives: tensors in, one unweighted loss per sample out."""

from .denoising import denoising_loss

__all__ = ["denoising_loss"]
