"""Time grids for the samplers: which noise levels to call the denoiser at."""

from .art import art
from .consistency import consistency
from .grids import GRIDS, karras, log_snr, resample, tangent, uniform

__all__ = ["GRIDS", "art", "consistency", "karras", "log_snr", "resample", "tangent", "uniform"]
