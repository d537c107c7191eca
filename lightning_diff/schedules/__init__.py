"""Time grids (the noise levels at which a sampler calls the denoiser), and step policies, which choose them by sample. No files."""

from .actor_critic import ActorCritic
from .art import art
from .consistency import consistency
from .grids import GRIDS, flow, karras, log_snr, resample, tangent, uniform
from .step_policy import StepPolicy
from .stick_breaking import StickBreaking

__all__ = [
    "GRIDS",
    "ActorCritic",
    "StepPolicy",
    "StickBreaking",
    "art",
    "consistency",
    "flow",
    "karras",
    "log_snr",
    "resample",
    "tangent",
    "uniform",
]
