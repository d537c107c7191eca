"""What a module that starts from a trained model takes from the model's record."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from ..artifacts import ModelRecord, read_record
from ..foundation.binding import is_node
from ..foundation.errors import UserError


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
