"""Models as files: weights in `model.safetensors`, how to rebuild the denoiser around them in `model.json` beside it.

Loading builds the network that `model.json` names and nothing else: only classes of networks (nn.Module) may be named,
with plain values as their arguments, and weights are read as tensors. The module that holds the class is imported, from
Python's own path: a file cannot bring code along, but it can name a module that is installed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..denoiser import Denoiser
from ..foundation.atomic import replacing, sha256
from ..foundation.binding import Mismatch, bind, construct, is_node, locate
from ..foundation.errors import UserError
from ..nets import lora

FORMAT = 1  # of model.json; raised when a program that knows the old one could not read the new one
WEIGHTS, RECORD = "model.safetensors", "model.json"


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """How to rebuild a model, and what its weights are: the content of `model.json`.

    Args:
        net: the recipe's node that builds the network.
        sigma_data, time, kind: see `Denoiser`.
        shape: of one example.
        num_classes: 0 for none.
        levels: noise levels of a consistency model's steps after the first that were found best, by number of steps.
        ema: name of the average that the weights are, "none" for the last step's own.
        images: images seen in training.
        sha256: of the weights' file.
    """

    net: dict[str, Any]
    sigma_data: float
    time: str
    kind: str = "denoiser"
    shape: tuple[int, ...]
    num_classes: int
    levels: dict[int, list[float]] = field(default_factory=dict)
    ema: str
    images: int
    sha256: str


_FIELDS = {
    "sigma_data": float,
    "time": str,
    "kind": str,
    "shape": tuple[int, ...],
    "num_classes": int,
    "levels": dict[str, list[float]],  # JSON has no other keys
    "ema": str,
    "images": int,
    "sha256": str,
}


def save_denoiser(
    folder: Path | str,
    denoiser: Denoiser,
    net: dict[str, Any],
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
    shape: tuple[int, ...] | list[int],
    num_classes: int = 0,
    ema: str = "none",
    images: int = 0,
) -> Path:
    """Write `model.safetensors` and `model.json` into a folder, each whole or not at all.

    Args:
        folder: made if missing.
        denoiser: its network's parameters and persistent buffers are written, in their own precision; adapters merged into weights.
        net: the recipe's node that builds the network, facts of the data filled in.
        weights: the network's state, where the network itself has other weights or is sharded.
        shape: of one example.
        num_classes: 0 for none.
        ema: name of the average that the weights are, "none" for the last step's own.
        images: images seen in training.

    Returns:
        The path of the weights.
    """
    folder = Path(folder)
    # Cloned, because the format refuses tensors that share memory and ones that are not laid out in order.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in lora.merged(denoiser.net.state_dict() if weights is None else weights).items()
    }
    try:
        with replacing(folder / WEIGHTS) as temporary:
            save_file(tensors, temporary)
            digest = sha256(temporary)
    except (OSError, SafetensorError) as error:  # the latter is how safetensors reports a full disk
        raise UserError(f"{folder / WEIGHTS}: cannot be written: {error}") from error
    record = {
        "format": FORMAT,
        "net": net,
        "sigma_data": denoiser.sigma_data,
        "time": denoiser.time,
        "kind": denoiser.kind,
        "shape": list(shape),
        "num_classes": num_classes,
        "ema": ema,
        "images": images,
        "sha256": digest,
    }
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return folder / WEIGHTS


def load_denoiser(path: Path | str) -> Denoiser:
    """The denoiser that `save_denoiser` wrote, on the CPU and in eval mode.

    Args:
        path: a folder with model.safetensors and model.json (a run folder, for instance), or either of the files.

    Raises:
        UserError: a file is missing, damaged, of a newer format, names something that is no network, or the weights are
            not those of the network.
    """
    record = read_record(path)
    weights, source = _files(Path(path))
    if not weights.is_file():
        raise UserError(f"{weights}: no such file")
    if sha256(weights) != record.sha256:
        raise UserError(f"{weights}: is damaged or not the file that {source} describes; make both again with export")
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: cannot be read: {error}") from error
    try:
        _refuse_all_but_networks(record.net, "net")
        with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away; nobody's random numbers change
            net = construct(bind(record.net, nn.Module, "net"))
        denoiser = Denoiser(net, record.sigma_data, record.time, record.kind)
    except (UserError, ValueError) as error:
        raise UserError(f"{source}: {error}") from error
    load_weights(denoiser.net, tensors, weights)
    return denoiser.eval()


def read_record(path: Path | str) -> ModelRecord:
    """What `model.json` says.

    Args:
        path: as for `load_denoiser`.
    """
    weights, source = _files(Path(path))
    if not source.is_file():
        raise UserError(
            f"{weights.parent}: has no {source.name}; it is written when training ends, or by lightning-diff export"
        )
    try:
        record = json.loads(source.read_text(encoding="utf-8"))
        if record["format"] > FORMAT:
            raise UserError(f"{source}: is of format {record['format']}; this version reads up to {FORMAT}: update it")
        if not is_node(record["net"]):
            raise UserError(f"{source}: net: expected a network's _target_ and arguments")
        record = {"kind": "denoiser", "levels": {}} | record  # written since there are others
        bound = {name: bind(record[name], hint, name) for name, hint in _FIELDS.items()}
        levels = {int(steps): values for steps, values in bound.pop("levels").items()}
        return ModelRecord(net=record["net"], levels=levels, **bound)
    except Mismatch as error:
        raise UserError(f"{source}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{source}: is no record of a model ({type(error).__name__}: {error})") from error


def keep_levels(path: Path | str, levels: list[float]) -> None:
    """Write the best noise levels for len(levels) + 1 steps into `model.json`.

    Args:
        path: as for `load_denoiser`.
        levels: after the first, decreasing.
    """
    kept = read_record(path).levels | {len(levels) + 1: levels}
    source = _files(Path(path))[1]
    record = json.loads(source.read_text(encoding="utf-8"))
    record["levels"] = {str(steps): values for steps, values in kept.items()}
    with replacing(source) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load_weights(net: nn.Module, tensors: dict[str, torch.Tensor], source: Path | str) -> None:
    """Copy tensors into a network that has exactly these; otherwise UserError with the first that differs."""
    own = net.state_dict()
    for name in [*own, *tensors]:
        here, there = (f"{name} {tuple(state[name].shape)}" if name in state else None for state in (own, tensors))
        if here != there:
            found = f"the file has {there or f'no {name}'}, the network {here or 'none'}"
            raise UserError(f"{source}: weights of another network: {found}")
    net.load_state_dict(tensors)


def _files(path: Path) -> tuple[Path, Path]:
    """Weights and record of a model."""
    if path.suffix in (".safetensors", ".json"):
        return path.with_suffix(".safetensors"), path.with_suffix(".json")
    return path / WEIGHTS, path / RECORD


def _refuse_all_but_networks(value: Any, key: str) -> None:
    """A model's file may come from anywhere: building it must not be able to call anything but networks."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_all_but_networks(item, f"{key}.{i}")
    if not isinstance(value, dict):
        return
    if is_node(value):
        target: Any = locate(value["_target_"], f"{key}._target_")
        if not (isinstance(target, type) and issubclass(target, nn.Module)):
            raise UserError(f"{key}._target_: {value['_target_']} is no network; a model's file may name no other code")
    for name, item in value.items():
        _refuse_all_but_networks(item, f"{key}.{name}")
