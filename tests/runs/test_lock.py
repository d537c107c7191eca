"""Two trainings never share a run folder; a dead one does not keep it."""

import errno
import json
import os
import subprocess
import sys
import threading

import pytest

from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import lock

HOLD = """
import sys, time
from pathlib import Path
from lightning_diff.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def fast_heartbeat(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 1.2)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.1)


def elsewhere(folder, **changes):
    record = {"host": "elsewhere", "process": 7, "since": "2026-01-01 00:00:00", "job": None}
    lock.record_path(folder).write_text(json.dumps(record | changes))


def test_a_folder_is_held_once_and_free_afterwards(tmp_path):
    folder = tmp_path / "run"
    assert lock.holder(folder) is None
    with lock.locked(folder) as stale:
        assert stale is None
        assert lock.holder(folder).process == os.getpid()
        with pytest.raises(UserError, match=f"process {os.getpid()} on "), lock.locked(folder):
            pass
    assert lock.holder(folder) is None
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path, other):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=f"process {other.pid} on"), lock.locked(folder):
        pass
    other.kill()
    other.wait()
    assert lock.holder(folder) is None
    with lock.locked(folder) as stale:
        assert f"process {other.pid} on" in stale


def test_a_worker_that_outlives_its_killed_parent_does_not_keep_the_folder(tmp_path):
    """A loader's worker lives on for some seconds."""
    folder = tmp_path / "run"
    program = HOLD.replace("time.sleep(60)", "import os; os.write(1, b'%d\\n' % os.fork()); time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "held\n"
    worker = max(int(parent.stdout.readline()), int(parent.stdout.readline()))  # the worker itself prints 0
    try:
        parent.kill()
        parent.wait()
        os.kill(worker, 0)  # it lives
        with lock.locked(folder) as stale:
            assert f"process {parent.pid} on" in stale
    finally:
        os.kill(worker, 9)
        parent.stdout.close()


@pytest.mark.whole
def test_a_holder_on_another_machine_is_known_by_its_heartbeat(tmp_path, fast_heartbeat):
    folder = tmp_path / "run"
    elsewhere(folder)
    with lock.locked(folder) as stale:  # no heartbeat
        assert "process 7 on elsewhere" in stale
    elsewhere(folder)
    released = threading.Event()
    threading.Thread(target=lock._beat, args=(lock.record_path(folder), released)).start()
    assert lock.holder(folder).host == "elsewhere"
    with pytest.raises(UserError, match="process 7 on elsewhere"), lock.locked(folder):
        pass
    released.set()


def test_a_disk_without_locks_is_covered_by_the_heartbeat(tmp_path, monkeypatch, fast_heartbeat):
    def refuse(self):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(lock.FileLock, "_acquire", refuse)
    folder = tmp_path / "run"
    with lock.locked(folder):
        assert lock.holder(folder).process == os.getpid()
        with pytest.raises(UserError, match=f"process {os.getpid()} on "), lock.locked(folder):
            pass
    with lock.locked(folder) as stale:
        assert stale is None


def test_a_job_that_its_scheduler_starts_again_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_beats", lambda path: pytest.fail("waited"))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    elsewhere(tmp_path / "run", job="12")
    with lock.locked(tmp_path / "run") as stale:
        assert "process 7 on elsewhere" in stale
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert lock._job() is None


def test_a_folder_that_nobody_holds_is_looked_at_without_a_trace(tmp_path):
    assert lock.holder(tmp_path / "run") is None
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_says_nothing_holds_nothing(tmp_path):
    for content in ("", "{", "[]", "\0\0"):
        lock.record_path(tmp_path / "run").write_text(content)
        with lock.locked(tmp_path / "run") as stale:
            assert stale is None
