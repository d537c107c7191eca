"""What a module that starts from a trained model takes from the model: facts of its record, its network, its weights."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from ..artifacts import ModelRecord, TrainedWith, load_denoiser, load_weights, read_record
from ..denoiser import Denoiser
from ..foundation.binding import bind, construct, is_node
from ..foundation.errors import UserError
from ..nets.lora import adapted


def facts(node: Mapping[str, Any], key: str, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the record of the model that `node[key]` names fills into a recipe's `model` node: net, sigma_data, time.

    Args:
        node: what the recipe gives; `net` may be a node, a network, or arguments in which it differs from the model's.
        key: "teacher", for instance.
        extra: further arguments of the network.
    """
    net = node.get("net")
    is_known = is_node(net) or isinstance(net, nn.Module)
    if is_known and "sigma_data" in node and "time" in node:  # even without the model
        return {"net": net, "sigma_data": node["sigma_data"], "time": node["time"]}
    known = record(Path(node[key]), key)
    if not is_known:
        net = known.net | dict(extra or {}) | (net or {})
    return {"net": net} | {name: node.get(name, getattr(known, name)) for name in ("sigma_data", "time")}


def record(path: Path, key: str) -> ModelRecord:
    """The model's record. UserError saying which recipe makes it, if a packaged one does."""
    if path.exists():
        return read_record(path)
    is_packaged = (files("lightning_diff.recipes") / f"{path.name}.yaml").is_file()
    way = f"`lightning-diff train {path.name}` makes it" if is_packaged else "train it first"
    raise UserError(f"model.{key}: {path}: no such model; {way}")


def trained_with(path: Path) -> TrainedWith:
    """What the model was trained with; nothing is known of one that is not there."""
    try:
        known = read_record(path)
    except UserError:
        return TrainedWith()
    return TrainedWith(**{each.name: getattr(known, each.name) for each in fields(TrainedWith)})


def denoiser(
    recipe_facts: Callable[[Mapping[str, Any]], dict[str, Any]], *, kind: str = "denoiser", **given: Any
) -> Denoiser:
    """A new denoiser of the network, sigma_data and time that are given, and of the model's where one of these is None.

    Args:
        recipe_facts: the module's, which knows the model (see `facts`).
        kind: of the new denoiser.
        given: net, sigma_data and time, and what else it takes; None for what is left out.
    """
    net, sigma_data, time = given["net"], given["sigma_data"], given["time"]
    if not isinstance(net, nn.Module) or sigma_data is None or time is None:
        known = recipe_facts({name: value for name, value in given.items() if value is not None})
        net = net if isinstance(net, nn.Module) else construct(bind(known["net"], nn.Module, "net"))
        sigma_data, time = known["sigma_data"], known["time"]
    return Denoiser(net, sigma_data, time, kind)


def start_from(path: Path, own: Denoiser) -> tuple[Denoiser, str]:
    """Give `own`, which may have adapters, the weights of a trained denoiser; that denoiser, and its weights' hash.

    Raises:
        UserError: there is no such model, or it is of another kind, unit of data or network.
    """
    sha256, start = record(path, "model").sha256, load_denoiser(path)
    if start.kind != "denoiser":
        raise UserError(f"model.model: {path} is a {start.kind} model; this trains denoisers")
    if (start.sigma_data, start.time) != (own.sigma_data, own.time):
        raise UserError(
            f"model: sigma_data and time are {own.sigma_data:g} and {own.time}, those of {path} "
            f"{start.sigma_data:g} and {start.time}; leave them out"
        )
    load_weights(own.net, adapted(start.net.state_dict(), own.net), path)
    return start, sha256
