"""events.jsonl: what happened to a run beside training, a line for each, with the time: resumes, skipped steps, alarms."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..foundation.first_process import is_first_process
from . import places

NAME = "events.jsonl"


class Event(NamedTuple):
    """One thing that happened.

    Args:
        when: seconds since the epoch; None if that is not known.
        images: training images seen by then; None if that is not known.
        text: what it was.
    """

    when: float | None
    images: int | None
    text: str


def note(folder: Path | str, images: int, text: str) -> None:
    """Add a line to a run's folder, on the first process; in another folder, a plain Trainer's, nothing is written.

    A disk without room costs the line and not the run, which the next checkpoint stops.
    """
    folder = Path(folder)
    if not is_first_process() or not places.is_one(folder):
        return
    line = json.dumps({"when": round(time.time(), 3), "images": images, "text": text})
    with suppress(OSError), (folder / NAME).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")  # at once, so that a crash cuts at most one line


def read(folder: Path) -> list[Event]:
    """What was noted, in its order; a line that a crash cut short is left out."""
    try:
        lines = (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found.append(Event(float(entry["when"]), int(entry["images"]), str(entry["text"])))
    return found
