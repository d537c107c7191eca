"""What is reported of a run, read from its folder: nothing is locked, and a file that comes or goes meanwhile is left out."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ...artifacts import user_code, validation
from ...artifacts.events import Event
from ...foundation.errors import UserError
from .. import compare, listing, recipe
from ..compare import Run
from ..listing import Listed
from .events import read as read_events
from .markup import plain, without_folders

NO_VERSION = ("argv", "modules")  # of versions.json


@dataclass(frozen=True)
class Record:
    """A run to report.

    Args:
        folder: the run's.
        run: its name, unlike the others'; its metrics, noise levels and recipe.
        listed: how far it is, and in which state.
        versions: of the packages it ran with, by name.
        command: what started it last; empty if that is not known.
        held_out: the last measurement of the callback `Validation`.
        events: what happened to it, in order.
    """

    folder: Path
    run: Run
    listed: Listed
    versions: dict[str, str]
    command: str
    held_out: Sequence[validation.Level]
    events: Sequence[Event]

    @property
    def name(self) -> str:
        return self.run.name

    def recipe(self) -> str:
        """As YAML, without the machine's folders; empty if it cannot be read."""
        return "" if self.run.settings is None else recipe.to_yaml(plain(self.run.settings))


def read(folders: Sequence[Path]) -> list[Record]:
    """The runs of these folders, each once.

    Raises:
        UserError: one of them is no run folder, or there is nothing to report of any.
    """
    for folder in folders:
        if not listing.is_run(folder):
            raise UserError(f"{folder}: is no run folder: it has neither a recipe, nor checkpoints, nor a model")
    once = list({folder.resolve(): folder for folder in folders}.values())
    runs = [
        replace(run, name=name, faults=tuple(map(without_folders, run.faults)))
        for run, name in zip(compare.read(once), names(once), strict=True)
    ]
    if not any(run.metrics or run.noise for run in runs) and not any(_has_pictures(folder) for folder in once):
        which = "it" if len(once) == 1 else "them"
        raise UserError(
            f"{', '.join(map(str, once))}: nothing is recorded of {which} yet; a run's first numbers come after "
            "trainer.log_every_n_steps steps"
        )
    return [_record(folder, run) for folder, run in zip(once, runs, strict=True)]


def names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of the folders above as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        found = ["/".join(each[-depth:]) for each in parts]
        if len(set(found)) == len(found):
            break
    return found


def _record(folder: Path, run: Run) -> Record:
    written = _versions(folder)
    packages = {name: without_folders(str(value)) for name, value in written.items() if name not in NO_VERSION}
    words = written.get("argv")
    command = "" if not isinstance(words, list) or not words else _typed([str(word) for word in plain(words)])
    held_out: list[validation.Level] = []
    with suppress(UserError, OSError):
        held_out = validation.latest(validation.read(folder))
    return Record(folder, run, listing.one(folder), packages, command, held_out, read_events(folder))


def _typed(argv: list[str]) -> str:
    """What a person typed, of Python's `sys.argv`: our command, or a program that trains."""
    program = Path(argv[0]).name
    ours = program in ("lightning-diff", "lightning-diff.exe", "__main__.py")
    return " ".join([*(["lightning-diff"] if ours else ["python", program]), *argv[1:]])


def _versions(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / user_code.VERSIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _has_pictures(folder: Path) -> bool:
    return next((folder / "samples").rglob("*.png"), None) is not None
