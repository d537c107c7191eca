"""Time grids for the samplers: which noise levels to call the denoiser at."""

from .actor_critic import ActorCritic
from .art import art
from .consistency import consistency
from .grids import GRIDS, karras, log_snr, resample, tangent, uniform
from .step_policy import StepPolicy
from .stick_breaking import StickBreaking

__all__ = [
    "GRIDS",
    "ActorCritic",
    "StepPolicy",
    "StickBreaking",
    "art",
    "consistency",
    "karras",
    "log_snr",
    "resample",
    "tangent",
    "uniform",
]
