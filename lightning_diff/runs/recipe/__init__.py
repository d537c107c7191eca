"""Recipes: one YAML file for a whole experiment, composed, checked, and turned into objects.

A recipe has the top-level keys of `KEYS`. OmegaConf reads it and resolves `${...}`; from here on it is plain dicts and lists.
Every message is one line: `FILE: dotted.key: what is wrong; what to do`.
"""

from ...foundation.binding import Node, is_node
from .comparison import LEFT_OUT, Change, changes
from .composition import compose, is_override, load, make_importable, merge
from .files import SAVED, find, packaged, read_yaml, run_folder, save, to_yaml
from .objects import build, fill_facts
from .record import KEYS, Recipe, seed_of
from .validation import check

__all__ = [
    "KEYS",
    "LEFT_OUT",
    "SAVED",
    "Change",
    "Node",
    "Recipe",
    "build",
    "changes",
    "check",
    "compose",
    "fill_facts",
    "find",
    "is_node",
    "is_override",
    "load",
    "make_importable",
    "merge",
    "packaged",
    "read_yaml",
    "run_folder",
    "save",
    "seed_of",
    "to_yaml",
]
