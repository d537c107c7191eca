"""Time grids for the samplers: which noise levels to call the denoiser at."""

from .grids import GRIDS, karras, log_snr, resample, tangent, uniform

__all__ = ["GRIDS", "karras", "log_snr", "resample", "tangent", "uniform"]
