"""Checkpoints on the disk, files or folders of shards: written whole, verified when read, the newest good one found."""

import json
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from ...foundation.atomic import delete, replacing, replacing_folder, sha256

PATTERN = "step_*.ckpt"


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}.ckpt"


def write(path: Path, save: Callable[[Path], None], *, step: int, images: int, is_folder: bool = False) -> None:
    """Save through `save(temporary path)`, with a record of sizes and SHA-256 beside it, so that damage is noticed on loading.

    The record is there first: a run killed between the two has a record too many, which `prune` deletes, and no damaged checkpoint.
    """
    with (replacing_folder if is_folder else replacing)(path) as temporary:
        save(temporary)
        contents = {"files": _digests(temporary)} if is_folder else dict(_digest(temporary))
        with replacing(path.with_suffix(".json")) as record:
            record.write_text(json.dumps({"step": step, "images": images, **contents}))


def fault(path: Path, *, by_size: bool = False) -> str | None:
    """The damage of a checkpoint in words, None for an undamaged one; with `by_size` the checksums are not computed."""
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        files = record["files"] if path.is_dir() else {"": record}
        sizes = {name: int(entry["bytes"]) for name, entry in files.items()}
        digests = {name: str(entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its record {path.with_suffix('.json').name} cannot be read ({type(error).__name__})"
    try:
        for name, size in sizes.items():
            if (found := (path / name).stat().st_size) != size:
                return f"{name or 'it'} has {found} bytes instead of {size}"
        if by_size:
            return None
        with ThreadPoolExecutor() as pool:
            for name, digest in zip(sizes, pool.map(lambda name: sha256(path / name), sizes), strict=True):
                if digest != digests[name]:
                    return f"the checksum of {name} is wrong" if name else "its checksum is wrong"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    return None


def newest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint; each damaged one that is passed over is named in a warning."""
    for path in sorted(folder.glob(PATTERN), reverse=True):
        problem = fault(path)
        if problem is None:
            return path
        warnings.warn(f"{path}: {problem}; using the checkpoint before it", stacklevel=2)
    return None


def set_aside_after(folder: Path, step: int) -> list[Path]:
    """Rename the checkpoints ahead of a step, for a run that resumes from it: they would pass for its newest ones."""
    ahead = [path for path in sorted(folder.glob(PATTERN)) if path > checkpoint_path(folder, step)]
    for path in ahead:
        for file in (path, path.with_suffix(".json")):
            if file.exists():
                number = 0
                while (aside := file.with_name(f"{file.name}.aside{number or ''}")).exists():
                    number += 1
                file.replace(aside)
    return ahead


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and records without a checkpoint."""
    for path in sorted(folder.glob(PATTERN), reverse=True)[keep:]:
        delete(path)
    for record in folder.glob("step_*.json"):
        if not record.with_suffix(".ckpt").exists():
            record.unlink()


class _Digest(TypedDict):
    bytes: int
    sha256: str


def _digest(file: Path) -> _Digest:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _digests(folder: Path) -> dict[str, _Digest]:
    """Sizes and hashes of all files in a folder, several at a time: hashing is slower than disks are."""
    files = sorted(folder.iterdir())
    with ThreadPoolExecutor() as pool:
        return {file.name: digest for file, digest in zip(files, pool.map(_digest, files), strict=True)}
