"""Files of prompts: a .txt with one a line, or a .jsonl with perhaps a class for each."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..foundation.binding import nearest
from ..foundation.errors import NotHereError, UserError

T = TypeVar("T")
TEXT_KEYS = ("prompt", "text", "caption")  # the first that a line has
SUFFIXES = (".txt", ".jsonl")


class PromptList(NamedTuple):
    """Prompts in order, and the class of each, a number or a name, where every one has one.

    `source` is where they are from, for messages.
    """

    texts: tuple[str, ...]
    labels: tuple[int | str, ...] | None = None
    source: str = "prompts"


def read_prompts(path: Path | str) -> PromptList:
    """The prompts of a file.

    Args:
        path: .txt, one prompt a line, blank lines passed over; or .jsonl, on each line an object with "prompt" (or "text", or
            "caption") and perhaps "label", the number or name of the class that an image of it belongs to.

    Raises:
        UserError: no such file, another kind of file, a line that is no such object, labels on some lines only, no prompt at all.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: is no file of prompts; expected {' or '.join(SUFFIXES)}")
    found = read_lines(path, _prompt if path.suffix == ".jsonl" else lambda line: (line, None))
    if not found:
        raise UserError(f"{path}: holds no prompts; write one a line")
    labels = [label for _, label in found]
    if any(label is None for label in labels) and any(label is not None for label in labels):
        raise UserError(f"{path}: some prompts have a label and some have none; give each one, or leave all out")
    return PromptList(
        tuple(text for text, _ in found), tuple(label for label in labels if label is not None) or None, str(path)
    )


def class_of(name: str | int, called: Sequence[str], where: str) -> int:
    """The number of a class that is named, or given by its number. UserError where there is none."""
    if name in called:
        return called.index(str(name))
    if str(name).isdecimal() and int(name) < len(called):
        return int(name)
    raise UserError(f"{where}: there is no class {name!r}; {nearest(str(name), called, 'the classes are')}")


def classes_in(prompts: PromptList, names: Sequence[str], count: int) -> list[int] | None:
    """The number of each prompt's class; None where the file says none. UserError for an unknown one.

    Without classes to look names up in, numbers are taken as they are, and names are nothing.
    """
    if prompts.labels is None:
        return None
    if not count:
        numbers = [int(label) for label in prompts.labels if str(label).isdecimal()]
        return numbers if len(numbers) == len(prompts.labels) else None
    called = [names[i] if i < len(names) else str(i) for i in range(count)]
    return [class_of(label, called, prompts.source) for label in prompts.labels]


def read_lines(path: Path, parse: Callable[[str], T]) -> list[T]:
    """What each line that is not blank says. UserError with the line's number for what `parse` refuses by a ValueError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise NotHereError(f"{path}: no such file (looked for it in {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(parse(line.strip()))
        except ValueError as error:
            raise UserError(f"{path}: line {number}: {error}") from error
    return found


def object_of(line: str) -> dict[str, object]:
    """The JSON object on a line of a .jsonl. ValueError where it is none."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg} at character {error.pos + 1})") from error
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with {_keys()}, got a {type(entry).__name__}")
    return entry


def text_of(entry: dict[str, object]) -> object:
    """What an object has under one of `TEXT_KEYS`. ValueError where it has none of them."""
    key = next((key for key in TEXT_KEYS if key in entry), None)
    if key is None:
        raise ValueError(f"has no {_keys()}; its keys are {', '.join(entry) or 'none'}")
    return entry[key]


def _prompt(line: str) -> tuple[str, int | str | None]:
    entry = object_of(line)
    text, label = text_of(entry), entry.get("label")
    if not isinstance(text, str):
        raise ValueError(f"the prompt is of type {type(text).__name__}, expected text")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise ValueError(f"label: expected the number or the name of a class, got {label!r}")
    return text, label


def _keys() -> str:
    return " or ".join(f'"{key}"' for key in TEXT_KEYS)
