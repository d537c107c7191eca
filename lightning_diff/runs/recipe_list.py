"""The packaged recipes with what each is, as their headers begin."""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import catalogue, recipe

END = re.compile(r"(?<=\.)(?:\s|$)")  # of a sentence


class Packaged(NamedTuple):
    """A recipe that comes with the package: its name, the first sentence of its header, and its file."""

    name: str
    summary: str
    path: Path


def packaged() -> list[Packaged]:
    """All of them, by name."""
    return [
        Packaged(name, first_sentence(catalogue.header(path.read_text(encoding="utf-8"))), path)
        for name, path in recipe.packaged().items()
    ]


def first_sentence(text: str) -> str:
    """On one line; of a text without a full stop the first paragraph."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return END.split(paragraph, maxsplit=1)[0]


def as_text(found: Sequence[Packaged]) -> str:
    """A line each; cut to the width of a terminal, whole in a file."""
    width = max(len(each.name) for each in found)
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = [f"{each.name:<{width}}  {each.summary}" for each in found]
    return "\n".join(line if limit is None or len(line) <= limit else f"{line[: limit - 3]}..." for line in lines)
