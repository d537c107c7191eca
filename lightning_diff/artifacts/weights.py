"""Weights put into networks: held against the network's own first, by name and shape."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..foundation.errors import UserError
from ..nets import lora
from .safetensors_files import shapes, tensors

MOST_NAMED = 5  # weights, in an error


def load_weights(net: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy tensors into a network that has exactly these; otherwise UserError with the first that differ, and their number."""
    refuse_unlike(net.state_dict(), state, source)
    net.load_state_dict(state)


def fill(net: nn.Module, files: Sequence[tuple[Path, str]], only: str = "") -> None:
    """Copy what these files hold into a network, one after another, so that no second copy of its weights is in memory.

    Args:
        files: of safetensors, each with a prefix before its names.
        only: beginning of the names that they have to hold; others stay as they are.

    Raises:
        UserError: a file cannot be read, or together they hold other weights than the network has; then nothing is copied.
    """
    own = {name: each for name, each in net.state_dict().items() if name.startswith(only)}
    found = {name: each for path, prefix in files for name, each in shapes([path], prefix, own).items()}
    refuse_unlike(own, found, files[-1][0])
    for path, prefix in files:
        net.load_state_dict(tensors(path, prefix, own), strict=False)


def refuse_unlike(own: Mapping[str, Tensor], other: Mapping[str, Tensor], source: Path | str) -> None:
    """UserError with the first weights that only one of two states has, or both in another shape; values do not count."""
    if differing := unlike(own, other):
        raise UserError(f"{source}: weights of another network: {in_words(differing, own, other)}")


@contextmanager
def undrawn() -> Iterator[None]:
    """Networks built in this block have any values in their weights: those that a file holds all of, and fills.

    Random numbers are what building a network of billions of weights spends its time on.
    """
    with (
        torch.random.fork_rng(devices=[]),
        _Undrawn(),
    ):  # a few layers draw by functions; nobody's random numbers change
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves a tensor as it is where it would be filled at random, in place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (Tensor.uniform_, Tensor.normal_) else func(*args, **(kwargs or {}))


def unlike(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of what only one of two states has, or both in another shape; those of the first come first."""
    names = dict.fromkeys([*own, *other])
    return [name for name in names if _shape(own, name) != _shape(other, name)]


def in_words(differing: list[str], own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str:
    """What `unlike` found: the first `MOST_NAMED`, and how many there are."""
    found = []
    for name in differing[:MOST_NAMED]:
        plain, there, here = lora.plain_name(name), _shape(other, name), _shape(own, name)
        in_file = f"no {plain}" if there is None else f"{plain} {there}"
        found.append(f"the file has {in_file}, the network {'none' if here is None else f'{plain} {here}'}")
    more = f"; and {len(differing) - MOST_NAMED:,} more" if len(differing) > MOST_NAMED else ""
    return f"{len(differing):,} of {len(own.keys() | other.keys()):,} differ: {'; '.join(found)}{more}"


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None
