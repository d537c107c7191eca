"""What samples that are measured are conditioned on: the classes of held-out images, or prompts."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from ..condition import Prompts, takes_condition
from ..data import Data
from ..denoiser import Denoiser
from .protocol import short_hash


@dataclass(frozen=True)
class Requested:
    """What n samples are conditioned on.

    Args:
        given: classes or numbers of prompts; None for nothing.
        classes: that each should be taken for; None where that is not known.
        texts: of the prompts, None of classes.
    """

    given: Int64[Tensor, " n"] | None = None
    classes: Int64[Tensor, " n"] | None = None
    texts: list[str] | None = None


def requested(denoiser: Callable[..., Tensor], data: Data, prompts: Prompts | None, n: int) -> Requested:
    """Of n samples; see `evaluate_denoiser`."""
    labels = requested_labels(data, n)
    if not takes_condition(getattr(denoiser, "net", None)):
        return Requested(labels, labels)
    if prompts is None:
        return Requested()
    if prompts.labels is None or labels is None or not set(labels.tolist()) <= set(prompts.labels):
        numbers = torch.arange(n) % len(prompts)
        known = None if prompts.labels is None or labels is None else torch.tensor(prompts.labels)[numbers]
        return Requested(numbers, known, [prompts.texts[i] for i in numbers.tolist()])
    of_class = {label: [i for i, own in enumerate(prompts.labels) if own == label] for label in set(prompts.labels)}
    seen: Counter[int] = Counter()
    chosen = []
    for label in labels.tolist():
        chosen.append(of_class[label][seen[label] % len(of_class[label])])
        seen[label] += 1
    return Requested(torch.tensor(chosen), labels, [prompts.texts[i] for i in chosen])


def told(denoiser: Callable[..., Tensor], prompts: Prompts | None, device: torch.device) -> Callable[..., Tensor]:
    """The denoiser, told what the numbers of prompts stand for; anything else as it is."""
    if not isinstance(denoiser, Denoiser) or prompts is None or not takes_condition(denoiser.net):
        return denoiser
    return denoiser.told(Prompts(prompts.texts, prompts.condition.to(device), prompts.labels))


def requested_labels(data: Data, n: int) -> Int64[Tensor, " n"] | None:
    """Label of held-out image i for sample i, over and over; None for unlabelled data."""
    if not data.num_classes:
        return None
    real = data.test if data.test is not None else data.train
    return real.label(torch.arange(n) % len(real))


def texts_hash(texts: Sequence[str]) -> str:
    """A hash of the prompts that images are conditioned on."""
    return short_hash(json.dumps(list(texts)).encode())
