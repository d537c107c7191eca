"""Sampler settings of the callbacks that draw samples, checked before the first step."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch import Trainer

from ..condition import Prompts, takes_condition
from ..data import Data
from ..foundation.errors import UserError
from ..modules.denoiser_module import TrainingModule
from ..modules.training_data import training_data
from ..schedules.sampling import Sampling, choose
from ..text import PromptList, classes_in, embedded, read_prompts

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
    if (fault := module.conditions_on(data).fault(guidance, labelled=is_labelled(module, data))) is not None:
        raise UserError(f"{callback}: {fault[0]}: {fault[1]}")


def say_doubt(callback: str, trainer: Trainer, module: TrainingModule, guidance: float) -> None:
    """Print a remark for a scale out of the model's range; arguments as for `refuse_unfit_guidance`."""
    data = training_data(trainer).data
    doubt = module.conditions_on(data).doubt(guidance, labelled=is_labelled(module, data))
    if doubt is not None and trainer.is_global_zero:
        print(f"{callback}: guidance {guidance:g}: {doubt}", flush=True)


def is_labelled(module: TrainingModule, data: Data) -> bool:
    """Whether samples have a class or a prompt, where these data say what they are drawn for."""
    return data.prompts is not None if takes_condition(module.denoiser.net) else data.num_classes > 0


def prompts_for(
    callback: str, module: TrainingModule, data: Data, prompts: str | Sequence[str] | None
) -> Prompts | None:
    """What a callback draws samples for: prompts of its own, or those of the data; None of a model without a text encoder.

    Args:
        callback: name, for messages.
        module, data: of the run; the data's encoder encodes the prompts.
        prompts: a file (see `text.read_prompts`) or a list; None for the data's.

    Raises:
        UserError: prompts for a model that takes none, or data without a text encoder.
    """
    if not takes_condition(module.denoiser.net):
        if prompts is not None:
            raise UserError(f"{callback}: prompts: the model takes none; leave it out")
        return None
    if prompts is None:
        return data.prompts
    if data.text is None:
        raise UserError(f"{callback}: prompts: the data have no text encoder; leave it out")
    if not isinstance(prompts, str) and not prompts:
        raise UserError(f"{callback}: prompts: there are none; leave it out for those of the data")
    found = (
        read_prompts(prompts) if isinstance(prompts, str) else PromptList(tuple(prompts), source=f"{callback}: prompts")
    )
    made = embedded(data.text, found.texts)
    return Prompts(
        found.texts, made.condition(made.numbers(found.texts)), classes_in(found, data.class_names, data.num_classes)
    )
