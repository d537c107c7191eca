"""One training at a time in a run folder."""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..foundation.errors import UserError

HEARTBEAT_SECONDS = 5.0
PATIENCE_SECONDS = 20.0  # after so long without a heartbeat, a holder on another machine is taken for dead


@dataclass(frozen=True)
class Holder:
    """The process that holds a run folder, as it wrote itself into the lock file."""

    host: str
    process: int
    since: str
    job: str | None  # the scheduler's name for it, the same when the scheduler starts it again

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (since {self.since})"


def record_path(folder: Path) -> Path:
    """Where the holder writes itself down: beside the run folder, which may be renamed while it is held."""
    return folder.with_name(f".{folder.name}.holder.json")


def holder(folder: Path) -> Holder | None:
    """The process that holds a run folder; None if none does."""
    if not record_path(folder).exists():
        return None
    lock, found, is_alive = _claim(folder)
    lock.release()
    return found if found and (_beats(record_path(folder)) if is_alive is None else is_alive) else None


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """A run folder held by this process; yields a message about a holder that died without releasing the lock, or None.

    The system takes back its lock on a file when the process that holds it ends, however it ends. Where a file system does
    not share such locks between machines, the time of the holder's record, renewed every few seconds, shows whether it lives.

    Raises:
        UserError: another process holds it; the message says which, and where.
    """
    record = record_path(folder)
    record.parent.mkdir(parents=True, exist_ok=True)
    lock, last, is_alive = _claim(folder)
    try:
        this = Holder(platform.node(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"), _job())
        if is_alive is None and last:
            is_this_job = last.job is not None and last.job == this.job  # a scheduler starts it again when it is dead
            is_alive = not is_this_job and _beats(record)
        if is_alive:
            who = last or "another process"
            raise UserError(f"{folder}: {who} trains in this folder; choose another name, or stop that run first")
        record.write_text(json.dumps(asdict(this)))
        released = threading.Event()
        threading.Thread(target=_beat, args=(record, released), daemon=True).start()
        try:
            died = f"{folder}: {last} died without releasing the lock; resuming from what it saved"
            yield died if last else None
        finally:
            released.set()
            record.unlink(missing_ok=True)
            with suppress(OSError):  # Windows does it at the release
                Path(lock.lock_file).unlink()  # while it is held, so that nobody takes a lock that is about to go
    finally:
        lock.release()


def _claim(folder: Path) -> tuple[FileLock, Holder | None, bool | None]:
    """The system's lock, if it is to be had; the last holder; whether that lives (None: only its heartbeat can tell).

    Forked children do not inherit the lock.
    """
    # The time is for a holder that removes the file just now.
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0.2, fallback_to_soft=False)
    is_alive = None
    try:
        lock.acquire()
    except Timeout:
        is_alive = True
    except OSError:  # a disk without such locks
        pass
    last = _read(record_path(folder))
    if lock.is_locked and last and last.host == platform.node():
        is_alive = False
    return lock, last, is_alive


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


def _read(path: Path) -> Holder | None:
    """None if nothing whole is there."""
    try:
        record = json.loads(path.read_text())
        return Holder(record["host"], record["process"], record["since"], record["job"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _job() -> str | None:
    names = (os.environ.get(variable) for variable in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"))
    return next((name for name in names if name not in (None, "", "none")), None)  # "none" is torchrun's for any job
