"""Training objectives: tensors in, one unweighted loss per sample out."""

from .consistency import ConsistencyLoss, consistency_loss
from .denoising import denoising_loss

__all__ = ["ConsistencyLoss", "consistency_loss", "denoising_loss"]
