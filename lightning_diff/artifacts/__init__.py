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
    from .import_model import import_edm_pickle, import_pipeline
    from .model import (
        RECORD,
        WEIGHTS,
        ModelRecord,
        bind_time,
        keep_levels,
        load_denoiser,
        read_record,
        save_denoiser,
    )
    from .pipeline import Pipeline, load_pipeline
    from .schedule import load_schedule, save_schedule
    from .text_encoder import encoded_prompts, load_text
    from .weights import in_words, load_weights, unlike

_HOME = {
    "RECORD": "model",
    "WEIGHTS": "model",
    "Conditions": "conditions",
    "ModelRecord": "model",
    "Pipeline": "pipeline",
    "TrainedWith": "conditions",
    "bind_time": "model",
    "encoded_prompts": "text_encoder",
    "import_edm_pickle": "import_model",
    "import_pipeline": "import_model",
    "in_words": "weights",
    "keep_levels": "model",
    "load_autoencoder": "autoencoder",
    "load_denoiser": "model",
    "load_edm_pickle": "edm_pickle",
    "load_pipeline": "pipeline",
    "load_schedule": "schedule",
    "load_text": "text_encoder",
    "load_weights": "weights",
    "read_record": "model",
    "save_denoiser": "model",
    "save_schedule": "schedule",
    "unlike": "weights",
}

__all__ = [
    "RECORD",
    "WEIGHTS",
    "Conditions",
    "ModelRecord",
    "Pipeline",
    "TrainedWith",
    "bind_time",
    "encoded_prompts",
    "import_edm_pickle",
    "import_pipeline",
    "in_words",
    "keep_levels",
    "load_autoencoder",
    "load_denoiser",
    "load_edm_pickle",
    "load_pipeline",
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
