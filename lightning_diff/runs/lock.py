"""One training at a time in a run folder."""

import errno
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..foundation.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks: the heartbeat decides alone
    fcntl = None  # type: ignore[assignment]

HEARTBEAT_SECONDS = 5.0
PATIENCE_SECONDS = 20.0  # after so long without a heartbeat, a holder on another machine is taken for dead


def lock_path(folder: Path) -> Path:
    """Beside the run folder, which may be renamed while it is held."""
    return folder.with_name(f".{folder.name}.lock")


def holder(folder: Path) -> str | None:
    """The process that holds a run folder, in words; None if none does."""
    path = lock_path(folder)
    record = _read(path)
    if record is None:
        return None
    taken = None
    if record["host"] == platform.node():
        with suppress(OSError), path.open("rb+") as file:
            taken = _take(file)
    is_held = _beats(path) if taken is None else not taken
    return _describe(record) if is_held else None


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Hold a run folder; gives a sentence about the dead process that held it last, or None if that had released it.

    The system takes back its lock on a file when the process that holds it ends, however it ends. Where a file system does
    not share such locks between machines, the file's time, renewed every few seconds, shows whether its holder lives.

    Raises:
        UserError: another process holds it; the message says which, and where.
    """
    path = lock_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    file, is_locked = _open(path, folder)
    released = threading.Event()
    try:
        stale = _refuse_if_alive(_read(path), path, folder, is_locked)
        record = {"host": platform.node(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.seek(0)
        file.truncate()
        file.write(json.dumps(record | {"job": _job()}).encode())
        file.flush()
        # A loader's worker that outlives a killed run for some seconds must not keep the folder.
        os.register_at_fork(after_in_child=file.close)
        threading.Thread(target=_beat, args=(path, released), daemon=True).start()
        try:
            yield stale
        finally:
            released.set()
            path.unlink(missing_ok=True)  # before the lock is given up, so that nobody locks a file that is about to go
    finally:
        file.close()


def _open(path: Path, folder: Path) -> tuple[IO[bytes], bool]:
    """The lock file, and whether it is locked: not where the system or the disk has no such locks."""
    while True:
        file = path.open("ab+")
        taken = _take(file)
        if taken is None:
            return file, False
        if not taken:
            file.close()
            raise _refusal(folder, _read(path))
        with suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file, True
        file.close()  # another process let go of the folder, and of this file, just before


def _refuse_if_alive(record: dict[str, Any] | None, path: Path, folder: Path, is_locked: bool) -> str | None:
    if record is None:
        return None
    is_known_dead = is_locked and record["host"] == platform.node()
    is_this_job = record["job"] is not None and record["job"] == _job()  # a scheduler starts it again when it is dead
    if not is_known_dead and not is_this_job and _beats(path):
        raise _refusal(folder, record)
    return f"{folder}: {_describe(record)} ended without a word; going on from what it saved"


def _refusal(folder: Path, record: dict[str, Any] | None) -> UserError:
    who = _describe(record) if record else "another process"
    return UserError(f"{folder}: {who} trains in this folder; choose another name, or stop that run first")


def _take(file: IO[bytes]) -> bool | None:
    """Lock a file: True, False if another process has it, None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _beat(path: Path, released: threading.Event) -> None:
    while not released.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _beats(path: Path) -> bool:
    """Watch the file's time, not its age: clocks of machines differ."""
    end = time.monotonic() + PATIENCE_SECONDS
    with suppress(FileNotFoundError):
        before = path.stat().st_mtime_ns
        while time.monotonic() < end:
            time.sleep(0.5)
            path.open("rb").close()  # network file systems look at the server again when a file is opened
            if path.stat().st_mtime_ns != before:
                return True
    return False


def _read(path: Path) -> dict[str, Any] | None:
    """What the holder wrote; None if nothing whole is there."""
    try:
        record = json.loads(path.read_text())
        return record if {"host", "process", "since", "job"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _describe(record: dict[str, Any]) -> str:
    return f"process {record['process']} on {record['host']}, started {record['since']},"


def _job() -> str | None:
    """The scheduler's name for this job, the same when it starts it again."""
    names = (os.environ.get(variable) for variable in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"))
    return next((name for name in names if name not in (None, "", "none")), None)  # "none" is torchrun's for any job
