"""Training objectives: tensors in, one unweighted loss per sample out."""

from .consistency import ConsistencyLoss, consistency_loss
from .denoising import denoising_loss
from .nft import NFTLoss, nft_loss

__all__ = ["ConsistencyLoss", "NFTLoss", "consistency_loss", "denoising_loss", "nft_loss"]
