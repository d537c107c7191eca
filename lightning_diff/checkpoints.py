"""Checkpoint files on the disk: written whole, verified when read, the newest good one found."""

import hashlib
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from .atomic import replacing

PATTERN = "step_*.ckpt"


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}.ckpt"


def write(path: Path, save: Callable[[Path], None], *, step: int, images: int) -> None:
    """Save through `save(temporary path)`, then record size and SHA-256 beside it, so that damage is noticed on loading."""
    with replacing(path) as temporary:
        save(temporary)
        digest, size = sha256(temporary), temporary.stat().st_size
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"step": step, "images": images, "bytes": size, "sha256": digest}))


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint file, or None."""
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        if path.stat().st_size != record["bytes"]:
            return f"it has {path.stat().st_size} bytes instead of {record['bytes']}"
        return None if sha256(path) == record["sha256"] else "its checksum is wrong"
    except (OSError, ValueError, KeyError) as error:
        return f"its record {path.with_suffix('.json').name} cannot be read ({type(error).__name__})"


def newest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint; each damaged one that is passed over is named in a warning."""
    for path in sorted(folder.glob(PATTERN), reverse=True):
        problem = fault(path)
        if problem is None:
            return path
        warnings.warn(f"{path}: {problem}; using the checkpoint before it", stacklevel=2)
    return None


def step(path: Path) -> int | None:
    """The optimiser step that a file holds the state of; None if it is damaged or no state of a training."""
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        is_complete = {"state_dict", "optimizer_states", "images_seen", "global_step"} <= state.keys()
        return state["global_step"] if is_complete else None
    except (OSError, EOFError, RuntimeError, ValueError, AttributeError, pickle.UnpicklingError):
        return None


def set_aside_after(folder: Path, step: int) -> list[Path]:
    """Rename the checkpoints ahead of a step, for a run that goes back to it: they would pass for its newest ones."""
    ahead = [path for path in sorted(folder.glob(PATTERN)) if path > checkpoint_path(folder, step)]
    for path in ahead:
        for file in (path, path.with_suffix(".json")):
            if file.exists():
                file.replace(file.with_name(f"{file.name}.aside"))
    return ahead


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in sorted(folder.glob(PATTERN), reverse=True)[keep:]:
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
