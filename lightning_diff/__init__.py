"""lightning_diff: train, distil, schedule and reward diffusion models.

The names below are loaded when first used, so that the mathematics can be imported without Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .foundation.moved import serve_old_files

if TYPE_CHECKING:
    from .artifacts import load_denoiser, save_denoiser
    from .denoiser import Denoiser
    from .foundation.errors import UserError
    from .modules import AlignmentModule, ConsistencyModule, DiffusionModule, ScheduleModule, TrainingData
    from .runs.loaded import Model, load

_HOME = {
    "AlignmentModule": "modules",
    "ConsistencyModule": "modules",
    "Denoiser": "denoiser",
    "DiffusionModule": "modules",
    "Model": "runs.loaded",
    "ScheduleModule": "modules",
    "TrainingData": "modules",
    "UserError": "foundation.errors",
    "load": "runs.loaded",
    "load_denoiser": "artifacts",
    "save_denoiser": "artifacts",
}

serve_old_files()

__all__ = [
    "AlignmentModule",
    "ConsistencyModule",
    "Denoiser",
    "DiffusionModule",
    "Model",
    "ScheduleModule",
    "TrainingData",
    "UserError",
    "load",
    "load_denoiser",
    "save_denoiser",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lightning_diff' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
