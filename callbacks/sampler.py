"""Sampler settings of the callbacks that draw samples, checked before the first step."""

from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import Trainer

from ..data import Data
from ..foundation.errors import UserError
from ..modules.denoiser_module import TrainingModule
from ..modules.training_data import training_data
from ..schedules.sampling import Sampling, choose

GridName = Literal["karras", "uniform", "log_snr", "tangent"]


def choose_for(callback: str, denoiser: Any, sampler: Mapping[str, Any]) -> Sampling:
    """`sampling.choose`, its complaints in the callback's name.

    Args:
        callback: name, for messages.
        denoiser: the model to be drawn from.
        sampler: solver, steps, grid, levels; None for what suits the model.
    """
    try:
        return choose(denoiser, **sampler)
    except ValueError as error:
        raise UserError(f"{callback}: {error}") from error


def refuse_unfit_guidance(callback: str, module: TrainingModule, data: Data, guidance: float) -> None:
    """UserError for a scale that the model in training will never be able to be guided by.

    Args:
        callback: name, for messages.
        module, data: of the run; samples have the labels of its data.
        guidance: scale; 1 is none.
    """
    if (fault := module.conditions_on(data).fault(guidance, labelled=data.num_classes > 0)) is not None:
        raise UserError(f"{callback}: {fault[0]}: {fault[1]}")


def say_doubt(callback: str, trainer: Trainer, module: TrainingModule, guidance: float) -> None:
    """Print a remark for a scale out of the model's range; arguments as for `refuse_unfit_guidance`."""
    data = training_data(trainer).data
    doubt = module.conditions_on(data).doubt(guidance, labelled=data.num_classes > 0)
    if doubt is not None and trainer.is_global_zero:
        print(f"{callback}: guidance {guidance:g}: {doubt}", flush=True)
