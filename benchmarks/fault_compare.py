"""Whether two run folders hold the same, to the last bit of every tensor."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lightning_diff.artifacts import checkpoints, events
from lightning_diff.artifacts.checkpoints import sharded
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.runs.report.at_end import REPORT

ASIDE = re.compile(r"faults\.\d+$")
HISTORY = (events.NAME, REPORT)  # what a run's resumes stand in
SPEED = ("images_per_second", "seconds/")  # metrics that no two runs share


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """Leaves by their path; an empty container is a leaf."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    leaves = {path: leaf for key, part in items for path, leaf in flat(part, f"{name}.{key}").items()}
    return leaves or {name: state}


def content(path: Path) -> Any:
    """What a file holds, where its bytes may differ without meaning: writers put keys in no fixed order."""
    if path.suffix == ".ckpt":
        state = checkpoints.read(path)
        return sharded.filled(state, path) if path.is_dir() else state
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
            return {"metadata": file.metadata(), "tensors": {name: file.get_tensor(name) for name in names}}
    if path.name == "metrics.csv":
        return [row for row in read(path) if not row["metric"].startswith(SPEED)]
    return path.read_bytes()


def first_difference(a: Path, b: Path) -> str | None:
    """Where in two files something differs."""
    one, other = flat(content(a)), flat(content(b))
    for name in one | other:
        x, y = one.get(name), other.get(name)
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            is_same = x.dtype == y.dtype and x.shape == y.shape and x.numpy().tobytes() == y.numpy().tobytes()
        else:
            is_same = type(x) is type(y) and (x == y or (x != x and y != y))
        if not is_same:
            return f"{a.name}{name}: {str(x)[:60]!r} and {str(y)[:60]!r}"
    return None


def files(run: Path) -> dict[str, Path]:
    """By name; of the checkpoints the newest alone, as a stopped run has saved others on its way.

    A run whose only checkpoint was damaged is moved aside, to faults.1, and starts anew: what lies there is left out. So are
    the list of what happened to a run, its resumes for instance, and the report, which shows it.
    """
    kept = [path for path in run.rglob("*") if path.is_file() and not ASIDE.match(path.relative_to(run).parts[0])]
    found = {path: str(path.relative_to(run)) for path in kept}
    names = {name: path for path, name in found.items() if "checkpoints" not in path.parts and path.name not in HISTORY}
    newest = checkpoints.newest(run / "faults" / "checkpoints")
    return names if newest is None else {**names, f"checkpoints/{newest.name}": newest}


def differences(whole: Path, parts: Path) -> list[str]:
    """What two run folders do not share, in words."""
    a, b = files(whole), files(parts)
    found = [f"{name}: only in one" for name in sorted(a.keys() ^ b.keys())]
    return found + [where for name in sorted(a.keys() & b.keys()) if (where := first_difference(a[name], b[name]))]
