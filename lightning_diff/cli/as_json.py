"""--json: stdout is one JSON document, for programs; whatever else a command says goes to stderr, as its bars do anyway."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document; all else goes to stderr (docs/json.md).")
]


@contextmanager
def aside(as_json: bool) -> Iterator[None]:
    """While a command works: what is printed goes to stderr, if stdout is for a document."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(document: Mapping[str, object]) -> None:
    """Print it in ASCII, which every encoding of a terminal or a pipe can write. Floats are not rounded."""
    print(json.dumps(plain(document), indent=2, allow_nan=False), flush=True)


def plain(value: object) -> object:
    """A value as JSON has it: null for a number that is not finite, text for a path, lists for tuples.

    Raises:
        TypeError: there is no such thing in JSON.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")
