"""Recipes: one YAML file for a whole experiment, composed, checked, and turned into objects.

A recipe has the top-level keys of `KEYS`. OmegaConf reads it and resolves `${...}`; from here on it is plain dicts and lists.
Every message is one line: `FILE: dotted.key: what is wrong; what to do`.
"""

from ...foundation.binding import Node, is_node
from .comparison import LEFT_OUT, Change, changes
from .composition import compose, load, make_importable
from .files import SAVED, find, packaged, read_yaml, run_folder, save, to_yaml
from .lightning_parts import check_built, check_module
from .objects import build, fill_facts
from .of_run import in_the_run_of, run_images
from .overrides import is_override, merge
from .record import KEYS, NOTES, OF_THE_FOLDER, Recipe, naming, seed_of
from .validation import check

__all__ = [
    "KEYS",
    "LEFT_OUT",
    "NOTES",
    "OF_THE_FOLDER",
    "SAVED",
    "Change",
    "Node",
    "Recipe",
    "build",
    "changes",
    "check",
    "check_built",
    "check_module",
    "compose",
    "fill_facts",
    "find",
    "in_the_run_of",
    "is_node",
    "is_override",
    "load",
    "make_importable",
    "merge",
    "naming",
    "packaged",
    "read_yaml",
    "run_folder",
    "run_images",
    "save",
    "seed_of",
    "to_yaml",
]
