"""Training objectives: tensors in, one unweighted loss per sample out. No weights, no optimisers."""

from .advantage_weighted import AdvantageWeightedLoss, advantage_weighted_loss
from .by_name import by_name
from .consistency import ConsistencyLoss, consistency_loss
from .denoising import denoising_loss
from .distribution_matching import MatchingLoss, dmd_loss, matching_loss, sid_loss
from .nft import NFTLoss, nft_loss
from .path_regression import Paths, path_regression_loss, teacher_paths
from .policy_gradient import Chain, PolicyGradientLoss, policy_gradient_loss, sample_chain

__all__ = [
    "AdvantageWeightedLoss",
    "Chain",
    "ConsistencyLoss",
    "MatchingLoss",
    "NFTLoss",
    "Paths",
    "PolicyGradientLoss",
    "advantage_weighted_loss",
    "by_name",
    "consistency_loss",
    "denoising_loss",
    "dmd_loss",
    "matching_loss",
    "nft_loss",
    "path_regression_loss",
    "policy_gradient_loss",
    "sample_chain",
    "sid_loss",
    "teacher_paths",
]
