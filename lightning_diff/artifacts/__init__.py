"""Files that runs leave: models, checkpoints, schedules, tables, pictures; written whole, read without running code.

Importing it needs neither Lightning nor matplotlib; the logger, the checkpoint plugin and the figures are imported by their files.
The names below are loaded when first used, so that tables and records of checkpoints can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autoencoder import load_autoencoder
    from .conditions import Conditions, TrainedWith
    from .edm_pickle import load_edm_pickle
    from .import_model import import_edm_pickle
    from .model import (
        RECORD,
        WEIGHTS,
        ModelRecord,
        bind_time,
        in_words,
        keep_levels,
        load_denoiser,
        load_weights,
        read_record,
        save_denoiser,
        unlike,
    )
    from .schedule import load_schedule, save_schedule
    from .text_encoder import encoded_prompts, load_text

_HOME = {
    "RECORD": "model",
    "WEIGHTS": "model",
    "Conditions": "conditions",
    "ModelRecord": "model",
    "TrainedWith": "conditions",
    "bind_time": "model",
    "encoded_prompts": "text_encoder",
    "import_edm_pickle": "import_model",
    "in_words": "model",
    "keep_levels": "model",
    "load_autoencoder": "autoencoder",
    "load_denoiser": "model",
    "load_edm_pickle": "edm_pickle",
    "load_schedule": "schedule",
    "load_text": "text_encoder",
    "load_weights": "model",
    "read_record": "model",
    "save_denoiser": "model",
    "save_schedule": "schedule",
    "unlike": "model",
}

__all__ = [
    "RECORD",
    "WEIGHTS",
    "Conditions",
    "ModelRecord",
    "TrainedWith",
    "bind_time",
    "encoded_prompts",
    "import_edm_pickle",
    "in_words",
    "keep_levels",
    "load_autoencoder",
    "load_denoiser",
    "load_edm_pickle",
    "load_schedule",
    "load_text",
    "load_weights",
    "read_record",
    "save_denoiser",
    "save_schedule",
    "unlike",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
