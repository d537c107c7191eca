"""Checkpoints on the disk: what they hold by version, files or folders of shards, written whole, verified when read."""

from .format import FORMAT, META, Checkpoint, migrate, read, recipe_hash, stamp
from .store import PATTERN, checkpoint_path, fault, newest, prune, set_aside_after, write

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
    "write",
]
