"""Checkpoints on the disk: what they hold by version, files or folders of shards, written whole, verified when read.

What they hold is loaded with torch, when first used; which there are, and whether they are whole, is known without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .store import PATTERN, checkpoint_path, fault, newest, prune, set_aside_after, write

if TYPE_CHECKING:
    from .format import FORMAT, META, Checkpoint, migrate, read, recipe_hash, stamp, unpickled

_OF_FORMAT = ("FORMAT", "META", "Checkpoint", "migrate", "read", "recipe_hash", "stamp", "unpickled")

__all__ = [
    "FORMAT",
    "META",
    "PATTERN",
    "Checkpoint",
    "checkpoint_path",
    "fault",
    "migrate",
    "newest",
    "prune",
    "read",
    "recipe_hash",
    "set_aside_after",
    "stamp",
    "unpickled",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _OF_FORMAT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.format"), name)
