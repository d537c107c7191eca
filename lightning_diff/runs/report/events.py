"""What happened to a run beside training: starts and resumes, skipped steps, alarms, as far as its folder tells."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...artifacts.checkpoints import store
from ..finished import FINISHED


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

    def cells(self) -> tuple[str, str, str]:
        """Time (UTC), images and text."""
        when = "" if self.when is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.when))
        return when, "" if self.images is None else f"{self.images:,}", self.text


def read(folder: Path) -> list[Event]:
    """In the order in which they happened."""
    found = [*_checkpoints(folder / "checkpoints"), *_end(folder)]
    return sorted(found, key=lambda event: event.when or 0.0)


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
