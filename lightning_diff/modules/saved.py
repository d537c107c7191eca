"""A training module from its checkpoint alone: built from the recipe that a run writes into it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule

from ..artifacts import checkpoints, user_code
from ..foundation.binding import bind, construct, is_node
from ..foundation.errors import UserError
from ..foundation.moved import modern
from .lightning_internals import State

M = TypeVar("M", bound=LightningModule)


def load(kind: type[M], path: Path | str, arguments: Mapping[str, Any], device: Any, strict: bool) -> M:
    """The module with the weights of a checkpoint.

    Args:
        kind: its class, or one that its class derives from.
        path: of the checkpoint, or a run folder, whose newest is taken.
        arguments: of the module, in place of the recipe's.
        device: of the weights, as `torch.nn.Module.to` takes it; None for the CPU.
        strict: whether the weights must be those of the network.

    Raises:
        UserError: no checkpoint of such a module; one without a recipe, for a module that cannot be built from `arguments` alone.
    """
    path = _file(Path(path))
    state = _read(path)
    module = _built(kind, path, state, arguments)
    module.on_load_checkpoint(state)
    if strict:
        refuse_other_network(module.state_dict(), state["state_dict"])
    module.load_state_dict(state["state_dict"], strict=strict)
    return module if device is None else module.to(device)


def refuse_other_network(own: State, stored: State) -> None:
    """A one-line error for weights of another network, in place of torch's page of tensor names."""
    for name in [*own, *stored]:
        here, there = (getattr(state.get(name), "shape", None) for state in (own, stored))
        if (name in own) != (name in stored) or here != there:
            has = [f"{name} {tuple(shape)}" if shape is not None else f"no {name}" for shape in (there, here)]
            raise UserError(f"the checkpoint is of another network: it has {has[0]}, this one {has[1]}")


def _file(path: Path) -> Path:
    """The checkpoint that a path means."""
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if (path / checkpoints.META).exists():
        raise UserError(f"{path}: is sharded; lightning_diff.load of the run folder gives the finished model")
    if path.is_file():
        return path
    newest = checkpoints.newest(path / "checkpoints")
    if newest is None:
        raise UserError(f"{path}: has no checkpoints")
    return _file(newest)


def _read(path: Path) -> State:
    state = checkpoints.unpickled(path)
    if not isinstance(state, dict) or not state.keys() >= {"images_seen", "state_dict"}:
        raise UserError(f"{path}: is no checkpoint of a training of lightning_diff's modules")
    return state


def _built(kind: type[M], path: Path, state: State, arguments: Mapping[str, Any]) -> M:
    recipe, _ = modern(state.get("recipe"))
    node = recipe.get("model") if isinstance(recipe, dict) else None
    if not is_node(node):
        try:
            return kind(**arguments)
        except (TypeError, UserError) as error:
            raise UserError(
                f"{path}: holds no recipe to build the module from (a Trainer of one's own wrote it); give load_from_checkpoint "
                f"what it was built with, net=... and so on ({error})"
            ) from error
    user_code.make_importable(path.parent.parent)
    try:
        bound = bind(node, kind, "model", later=tuple(arguments))
        bound.arguments.update(arguments)
        with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away
            module: LightningModule = construct(bound)
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    assert isinstance(module, kind)
    return module
