"""One decoded set on the disk: a folder with the values of its images, and `facts.json`, which says all else about it."""

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Shaped

from ...foundation.formats import newer
from ..bucketed import Bucketed
from ..buckets import Bucketing
from ..crops import Crops
from ..image_set import ImageSet, Origin
from ..resize import Framing
from .mapped import Mapped
from .stores import Ragged

FORMAT = 1  # of the folder; another one is not read
FACTS = "facts.json"
BLOCKS, BLOCK = 64, 4096  # that are looked at to tell a damaged file, and bytes of each

Decoded: TypeAlias = ImageSet | Crops | Bucketed
Sets: TypeAlias = tuple[Decoded, Decoded | None]
SPLITS = ("train", "test")


def write(folder: Path, sets: Sets, state: str) -> None:
    """What is to be known of these sets beside their pixels, which are in `folder` already, as files of the splits' names.

    Args:
        folder: of the entry.
        sets: training and held-out examples.
        state: of the files that they were read from.
    """
    records = {split: _record(folder, split, examples) for split, examples in zip(SPLITS, sets, strict=True)}
    facts = {"format": FORMAT, "state": state, "sets": records}
    (folder / FACTS).write_text(json.dumps(facts, indent=1))


def read(folder: Path, state: str) -> tuple[Sets | None, str]:
    """The examples of an entry, mapped; or None, and what is wrong with it in words, "" where there is none.

    Args:
        folder: of the entry.
        state: of the files as they are now.
    """
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        if facts["format"] > FORMAT:
            return None, newer(facts["format"], FORMAT)
        if facts["format"] != FORMAT:
            return None, "is of an older version"
        if facts["state"] != state:
            return None, "is older than the files"
        train, test = (_examples(folder, split, facts["sets"][split]) for split in SPLITS)
        if train is None:
            return None, "is damaged"
    except (FileNotFoundError, NotADirectoryError):
        return None, "is damaged" if folder.exists() else ""
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None, "is damaged"
    with suppress(OSError):  # of others, read-only
        os.utime(folder / FACTS)  # the time of the last use
    return (train, test), ""


def size_of(folder: Path) -> int:
    """Bytes of an entry."""
    return sum(file.stat().st_size for file in folder.iterdir())


def _record(folder: Path, split: str, examples: Decoded | None) -> Mapping[str, Any] | None:
    if examples is None:
        return None
    if not isinstance(examples, ImageSet):
        np.save(folder / f"{split}.shapes.npy", examples.shapes)
        stored, shape, framing = examples.values, examples.values.shape, examples.framing.__dict__
    else:
        stored, shape, framing = examples.pixels.numpy(), examples.pixels.shape, None
    if examples.labels is not None:
        np.save(folder / f"{split}.labels.npy", examples.labels.numpy())
    if examples.names:
        (folder / f"{split}.names.json").write_text(json.dumps(examples.names))
    return {
        "dtype": str(stored.dtype),
        "shape": list(shape),
        "framing": framing,
        "std": examples.std(),
        "fingerprint": examples.fingerprint(),
        "check": _check(stored),
        "name": examples.name,
        "labelled": examples.labelled,
        "named": len(examples.names) > 0,
        "num_classes": examples.num_classes,
        "class_names": list(examples.class_names),
        "origin": examples.origin._asdict(),
    }


def _examples(folder: Path, split: str, record: Mapping[str, Any] | None) -> Decoded | None:
    """ValueError for a damaged file."""
    if record is None:
        return None
    path, shape = folder / split, tuple(record["shape"])
    mapped = Mapped(str(path), record["dtype"], shape, record["std"], record["fingerprint"])
    if path.stat().st_size != np.prod(shape, dtype=np.int64) * np.dtype(record["dtype"]).itemsize:
        raise ValueError(f"{path}: of another size")
    if _check(mapped.array()) != record["check"]:
        raise ValueError(f"{path}: of other content")
    labels = torch.from_numpy(np.load(folder / f"{split}.labels.npy")) if record["labelled"] else None
    told = record["origin"]
    origin = Origin(told["where"], told["labels"], tuple(told["notes"]))
    rest = (labels, record["name"], record["num_classes"], origin, tuple(record["class_names"]), mapped)
    names = json.loads((folder / f"{split}.names.json").read_bytes()) if record["named"] else ()
    if record["framing"] is None:
        return ImageSet(mapped.tensor(), *rest, names=names)
    ragged = Ragged(mapped.array(), np.load(folder / f"{split}.shapes.npy"))
    framing = dict(record["framing"])
    if "sizes" in framing:
        sizes = tuple((height, width) for height, width in framing.pop("sizes"))
        return Bucketed(ragged, Bucketing(**framing, sizes=sizes), *rest, names=names)
    return Crops(ragged, Framing(**framing), *rest, names=names)


def _check(stored: Shaped[np.ndarray, "..."]) -> int:
    """Of some blocks, evenly spaced, the first and the last among them."""
    flat = stored.reshape(-1).view(np.uint8)
    starts = np.linspace(0, max(len(flat) - BLOCK, 0), BLOCKS).astype(np.int64)
    check = 0
    for start in np.unique(starts).tolist():
        check = zlib.crc32(flat[start : start + BLOCK].tobytes(), check)
    return check
