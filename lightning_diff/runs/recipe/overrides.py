"""`key=value` of the command line: YAML, or the text as it was written where the recipe wants a text.

YAML alone would cut `runs/a #1` at the `#`, and make a number of `1e3`, nothing of `null` and a mapping of `a: b`, be they names of
runs or of folders. A value that stands for no text, such as `[1, 2]` or `{lr: 0.1}`, has YAML's own rules.
"""

import inspect
import re
from collections.abc import Sequence
from typing import cast

from ...foundation.annotations import ANYTHING
from ...foundation.binding import Node, bind, is_node, locate, signature
from ...foundation.errors import UserError
from ...foundation.source_signatures import parameters
from ...foundation.sources import find
from .files import Raw

OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=", re.ASCII)
TEXTS = ("name", "runs_dir", "resume")  # top-level keys whose value is always a text
_QUOTED = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*""", re.DOTALL)


class NotYaml(str):
    """A value that YAML cannot read: right where a text is wanted, and nowhere else."""


def is_override(argument: str) -> bool:
    """Whether a word of the command line is `dotted.key=value` rather than a recipe."""
    return OVERRIDE.match(argument) is not None


def override(recipe: Raw, text: str) -> Raw:
    """A copy of a recipe with `key=value` merged in.

    Raises:
        UserError: it is no `key=value`, or the key leads through a value that has no keys.
    """
    _refuse_other_bytes(text)
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"command line: {text}: expected dotted.key=value")
    if "\0" in value:
        raise UserError(f"command line: {key}: a value holds no zero byte")
    parsed = _parsed(value, is_text=key in TEXTS)
    if isinstance(parsed, NotYaml):
        if "." not in key:
            raise _not_yaml(text)
        parsed = str(parsed)  # `as_written` looks at it again when the targets are known
    return cast(Raw, _replaced(recipe, key.split("."), parsed, key))


def as_written(recipe: Node, overrides: Sequence[str]) -> Node:
    """The recipe with every value of the command line that its target refuses, but takes as a text, as that text.

    Args:
        recipe: composed with these overrides.
        overrides: `dotted.key=value`.

    Raises:
        UserError: a value is neither YAML nor where a text is wanted.
    """
    for key, _, text in (word.partition("=") for word in overrides):
        path = key.split(".")
        node, name = _at(recipe, path[:-1]), path[-1]
        if len(path) == 1 or not isinstance(node, dict) or name not in node or "${" in text:
            continue
        parsed = _parsed(text, is_text=False)
        if repr(node[name]) != repr(parsed):  # overridden in its turn
            continue
        if isinstance(parsed, NotYaml):
            if not _fits(node, name, text):
                raise _not_yaml(f"{key}={text}")
        elif not isinstance(parsed, str) and _fits(node, name, text) and not _fits(node, name, parsed):
            node[name] = text
    return recipe


def _refuse_other_bytes(text: str) -> None:
    """A file's name may be any bytes, and YAML is text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        plain = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise UserError(
            f"command line: {plain}: is no UTF-8, as a recipe must be; give a link with a plain name"
        ) from None


def _not_yaml(text: str) -> UserError:
    return UserError(f"command line: {text}: the value is not YAML; quote it")


def _parsed(text: str, *, is_text: bool) -> object:
    """What a value says: text in quotes without them; other text whole, where it is one word to YAML but for a comment."""
    from omegaconf import OmegaConf
    from yaml import YAMLError  # type: ignore[import-untyped]

    def yaml(part: str) -> object:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={part}"]), resolve=False)["value"]  # type: ignore[index,call-overload]

    try:
        if _QUOTED.fullmatch(text) and isinstance(read := yaml(text), str):
            return read
        if is_text:
            return text
        read = yaml(text)
        has_comment = re.search(r"(?:^|\s)#", text) is not None and not isinstance(read, dict | list)
        is_changed = isinstance(read, str) and read != text.strip()  # a tag, a block
        return text if has_comment or is_changed else read
    except (YAMLError, ValueError):
        return text if is_text else NotYaml(text)


def _fits(node: Node, name: str, value: object) -> bool:
    """Whether a node's target takes the value; False where that is not known, which is said when the recipe is checked."""
    try:
        parameter = _parameter(node, name) if is_node(node) else None
        if parameter is None:
            return False
        bind(value, parameter.annotation, "")
    except UserError:
        return False
    return True


def _parameter(node: Node, name: str) -> inspect.Parameter | None:
    """Of a node's target, from its source file where that says enough: importing it costs seconds."""
    defined = find(node["_target_"]) if isinstance(node["_target_"], str) else None
    known = None if defined is None else parameters(defined)
    if known is None or (name in known and known[name].annotation is ANYTHING):
        known = signature(locate(node["_target_"], ""))
    return (known or {}).get(name)


def _at(tree: object, path: list[str]) -> object:
    """What stands at a dotted key; None if nothing does."""
    for name in path:
        if isinstance(tree, list) and name.isdigit() and int(name) < len(tree):
            tree = tree[int(name)]
        elif isinstance(tree, dict):
            tree = tree.get(name)
        else:
            return None
    return tree


def merge(base: object, over: object) -> object:
    """`over` on top of `base`: mappings by key; all else, and nodes whose `_target_` changes, replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "_target_" in over and over["_target_"] != base.get("_target_"):
        return over
    return base | {key: merge(base[key], value) if key in base else value for key, value in over.items()}


def _replaced(tree: object, path: list[str], value: object, key: str) -> object:
    """A copy of `tree` with the value merged in at the path."""
    name, *rest = path
    done = ".".join(key.split(".")[: -len(path)])
    if isinstance(tree, list):
        if not name.isdigit() or int(name) > len(tree):
            raise UserError(f"command line: {key}: {done} has {len(tree)} entries, numbered from 0; no entry {name}")
        position = int(name)
        old = tree[position] if position < len(tree) else None
        new = _replaced(old, rest, value, key) if rest else merge(old, value)
        return [*tree[:position], new, *tree[position + 1 :]]
    if tree is not None and not isinstance(tree, dict):
        raise UserError(f"command line: {key}: {done} is {tree!r}, which has no keys")
    tree = tree or {}
    return tree | {name: _replaced(tree.get(name), rest, value, key)} if rest else merge(tree, {name: value})
