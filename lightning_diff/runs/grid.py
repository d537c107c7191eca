"""A grid of runs from one command: `train RECIPE -m seed=0,1,2 model.net.channels=16,32`.

An override whose value has commas outside brackets and quotes has several values; a run is made for every combination, the first
key changing slowest. Its name is the recipe's and what differs: `digits_edm,seed=0,channels=16`.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..foundation.errors import UserError
from . import recipe
from .recipe import Recipe

PLAIN = re.compile(r"[^\w.+-]+", re.ASCII)  # what is not fit for the name of a folder
LONGEST = 160  # of a name; file systems have 255 bytes, and the lock beside the folder has a longer one


@dataclass(frozen=True)
class Point:
    """One run of a grid.

    Args:
        word: the recipe, as it was typed.
        overrides: all of the run's, its name included.
        label: what differs from the other runs; "" where nothing does.
        settings: the recipe, checked.
        source: its file.
    """

    word: str
    overrides: tuple[str, ...]
    label: str
    settings: Recipe
    source: Path


def points(words: Sequence[str], overrides: Sequence[str]) -> list[Point]:
    """The runs of a grid, all of them checked.

    Args:
        words: recipes, as they were typed.
        overrides: `dotted.key=value` or `dotted.key=value,value,...`.

    Raises:
        UserError: nothing varies, a recipe or a point is not right, or two points would have one name.
    """
    varied = [(key, values(text, key)) for key, _, text in (word.partition("=") for word in overrides)]
    several = {key for key, found in varied if len(found) > 1}
    if not several and len(words) < 2:
        raise UserError("-m: no override has several values; write them with commas, seed=0,1,2 for instance")
    short = _short({key for key in several if key != "name"})
    made: list[Point] = []
    for word, chosen in itertools.product(words, itertools.product(*(found for _, found in varied))):
        own = [f"{key}={value}" for (key, _), value in zip(varied, chosen, strict=True)]
        differing = [(key, value) for (key, _), value in zip(varied, chosen, strict=True) if key in short]
        label = ",".join(f"{short[key]}={_plain(value)}" for key, value in differing)
        if label:
            own.append(f"name='{_name(recipe.compose(word, own)['name'], label)}'")
        made.append(Point(word, tuple(own), label, recipe.load(word, own), recipe.find(word)))
    return made


def values(text: str, key: str) -> list[str]:
    """The values of an override: its parts between commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not parts[-1].strip():
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise UserError(f"command line: {key}={text}: a value between commas is missing")
    return [part.strip() for part in parts] if len(parts) > 1 else parts


def _short(keys: set[str]) -> dict[str, str]:
    """The last part of each dotted key, with as many of those before it as tell the keys apart."""

    def ends(key: str) -> Iterator[str]:
        parts = key.split(".")
        yield from (".".join(parts[-length:]) for length in range(1, len(parts) + 1))

    def is_own(end: str, key: str) -> bool:
        return not end[0].isdigit() and not any(f".{other}".endswith(f".{end}") for other in keys - {key})

    return {key: next((end for end in ends(key) if is_own(end, key)), key) for key in keys}


def _plain(value: str) -> str:
    """A value as part of a folder's name: of an import path its last part, and nothing that a shell or a disk takes amiss."""
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
        value = value.rpartition(".")[2]
    sign = "-" if re.match(r"-[.\d]", value) else ""
    return sign + PLAIN.sub("-", value).strip("-") or "empty"


def _name(base: str, label: str) -> str:
    name = f"{base},{label}"
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
