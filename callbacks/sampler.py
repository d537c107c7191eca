"""Sampler settings of the callbacks that draw samples, checked before the first step."""

from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import Trainer

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


def refuse_unfit_guidance(callback: str, trainer: Trainer, module: TrainingModule, guidance: float) -> None:
    """UserError for a scale that the model in training will never be able to be guided by; a remark for one out of its range.

    Args:
        callback: name, for messages.
        trainer, module: of the run; samples have the labels of its data.
        guidance: scale; 1 is none.
    """
    labelled, conditions = training_data(trainer).data.num_classes > 0, module.conditions
    if (fault := conditions.fault(guidance, labelled=labelled)) is not None:
        raise UserError(f"{callback}: {fault[0]}: {fault[1]}")
    if (doubt := conditions.doubt(guidance, labelled=labelled)) is not None and trainer.is_global_zero:
        print(f"{callback}: guidance {guidance:g}: {doubt}", flush=True)
