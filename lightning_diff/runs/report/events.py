"""What happened to a run beside training: resumes, skipped steps and alarms that were noted, checkpoints, its end."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...artifacts import events
from ...artifacts.checkpoints import store
from ...artifacts.events import Event
from ..finished import FINISHED


def read(folder: Path) -> list[Event]:
    """In the order in which they happened."""
    found = [*events.read(folder), *_checkpoints(folder / "checkpoints"), *_end(folder)]
    return sorted(found, key=lambda event: event.when or 0.0)


def as_row(event: Event) -> tuple[str, str, str]:
    """Time (UTC), images and text."""
    when = "" if event.when is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(event.when))
    return when, "" if event.images is None else f"{event.images:,}", event.text


def _checkpoints(folder: Path) -> Iterator[Event]:
    """Those that are kept, and those that a resume from an earlier one set aside."""
    for path in folder.glob(store.PATTERN):
        with suppress(OSError, ValueError, KeyError, TypeError):
            images = int(json.loads(path.with_suffix(".json").read_text())["images"])
            yield Event(path.stat().st_mtime, images, f"checkpoint {path.name}")
    for path in folder.glob(f"{store.PATTERN}.aside*"):
        yield Event(None, None, f"resumed from before {path.name.partition('.')[0]}, which was set aside")


def _end(folder: Path) -> Iterator[Event]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((folder / FINISHED).read_text())
        text = "finished, by an EarlyStopping" if record.get("early") else "finished"
        yield Event((folder / FINISHED).stat().st_mtime, int(record["images"]), text)
