"""What samples are conditioned on, as a person asks for it: classes, or prompts of a model with a text encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from jaxtyping import Int64
from torch import Tensor

from ..artifacts import encoded_prompts, pictures
from ..condition import Prompts
from ..data import Data
from ..denoiser import Denoiser
from ..foundation.errors import UserError
from ..text import PromptList, classes_in, read_prompts
from .labels import classes_of
from .trained import Trained

MOST_NAMED = 20  # classes that are written over the columns of a picture
MOST_COLUMNS = 10  # of prompts: their texts take more room


@dataclass(frozen=True)
class Asked:
    """What samples are conditioned on, cycled through.

    Args:
        numbers: classes, or prompts by their number; None for samples without.
        names: of the classes or prompts that `numbers` stand for, in order of number.
        prompts: of a text-conditional model; None of others.
    """

    numbers: Int64[Tensor, " k"] | None
    names: Sequence[str] = ()
    prompts: Prompts | None = None

    def of(self, n: int) -> Int64[Tensor, " n"] | None:
        """For each of n samples."""
        return None if self.numbers is None else self.numbers[torch.arange(n) % len(self.numbers)]

    def told(self, denoiser: Denoiser, device: torch.device | str) -> Denoiser:
        """The denoiser, told what the numbers of prompts stand for."""
        return denoiser if self.prompts is None else denoiser.told(self.prompts.to(device))

    def shown(self, n: int) -> "Shown":
        """How a picture of n samples shows them: a column for each class or prompt, if they are few, with its name or text."""
        if self.prompts is not None:
            numbers = self.of(n)
            captions = [] if numbers is None else [self.names[number] for number in numbers.tolist()]
            columns = min(len(self.prompts), n) if len(self.prompts) <= MOST_COLUMNS else None
            return Shown(columns=columns, column_names=[], captions=captions)
        few = [] if self.numbers is None or len(self.numbers) > MOST_NAMED else self.numbers.tolist()
        names = [pictures.caption(label, self.names) for label in few]
        return Shown(columns=min(len(names), n) or None, column_names=names, captions=[])


class Shown(TypedDict):
    """Arguments of `pictures.grid`."""

    columns: int | None
    column_names: list[str]
    captions: list[str]


def given(file: Path | str | None, texts: Sequence[str] = ()) -> PromptList | None:
    """What --prompts and --prompt say together; None for nothing."""
    found = None if file is None else read_prompts(file)
    if blank := [text for text in texts if not text.strip()]:
        raise UserError(f"--prompt: {blank[0]!r} is no prompt; leave it out for samples without one")
    if not texts:
        return found
    if found is None:
        return PromptList(tuple(texts), source="--prompt")
    return PromptList((*found.texts, *texts), source=found.source)


def asked(model: Trained, labels: str = "all", prompts: PromptList | None = None) -> Asked:
    """What samples of this model are conditioned on.

    Args:
        model: its record says what it takes.
        labels: as --labels has it: "all", "none", or names and numbers with commas.
        prompts: None for those of the model's record.

    Raises:
        UserError: prompts with a model that takes none, classes with one that takes prompts; no text encoder.
    """
    record = model.record
    if not record.conditions.takes_condition:
        if prompts is not None:
            how = "on classes: use --labels" if record.num_classes else "on nothing: leave it out"
            raise UserError(f"--prompts: {model.path} has no text encoder; it is conditioned {how}")
        return Asked(classes_of(labels, record.num_classes, record.class_names), record.class_names)
    if labels == "none":
        if prompts is not None:
            raise UserError("--labels: none is for samples without a prompt; leave it out, or the prompts")
        return Asked(None)
    if labels != "all":
        raise UserError(
            f"--labels: {model.path} is conditioned on text and has no classes; use --prompts FILE or --prompt TEXT"
        )
    told = encoded_prompts(model.path, record, prompts)
    if told is None:
        return Asked(None)
    return Asked(torch.arange(len(told)), told.texts, told)


def labelled(told: Prompts | None, prompts: PromptList, data: Data) -> Prompts | None:
    """The same prompts, their classes those of these data."""
    if told is None or prompts.labels is None:
        return told
    return Prompts(told.texts, told.condition, classes_in(prompts, data.class_names, data.num_classes))
