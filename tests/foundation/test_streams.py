"""A program outlives the streams that it writes to."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from lightning_diff import cli
from lightning_diff.foundation.streams import lasting_streams

FULL = """
import os, sys
from lightning_diff.cli import main
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
sys.exit(main())
"""


class Broken(io.StringIO):
    def __init__(self, error: OSError):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")])
def test_a_stdout_that_fails_is_done_without_and_that_is_said_once(monkeypatch, error):
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Broken(error))
    monkeypatch.setattr(sys, "stderr", said)
    with lasting_streams() as out:
        print("one", flush=True)
        print("two", flush=True)
        assert out.flushed() == error.errno
    assert said.getvalue() == f"warning: stdout: {error.strerror}; going on without it\n"
    assert isinstance(sys.stdout, Broken)


def test_a_stderr_that_fails_is_done_without(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken(OSError(5, "Input/output error")))  # a terminal that was closed
    with lasting_streams():
        print("one", file=sys.stderr, flush=True)


@pytest.mark.whole
def test_a_training_without_any_stream_trains_and_with_a_full_stdout_too(tmp_path, train):
    train("recipe", "trainer.max_steps=1")
    words = ("train", "recipe.yaml", "trainer.max_steps=2")
    command = " ".join([sys.executable, "-m", "lightning_diff", *words, "name=closed", "<&- >&- 2>&-"])
    closed = subprocess.Popen(["sh", "-c", command], cwd=tmp_path)  # Python finds out as it starts
    Path("full.py").write_text(FULL)
    full = forked.start(*words, "name=full", program="full.py")
    try:
        _, errors = full.communicate()
        assert (closed.wait(120), full.returncode) == (0, 0)
    finally:
        for process in (closed, full):
            process.kill()
    assert "warning: stdout: No space left" in errors
    assert "Traceback" not in errors
    for name in ("closed", "full"):
        assert (Path("runs") / name / "model.safetensors").exists()
        assert (Path("runs") / name / "finished.json").exists()


@pytest.mark.parametrize(("number", "code"), [(32, 0), (28, 2)])
def test_a_command_that_only_prints_fails_on_a_full_disk_and_not_for_a_reader_that_left(
    tmp_path, train, monkeypatch, capsys, number, code
):
    train("recipe", "trainer.max_steps=1")
    monkeypatch.setattr(sys, "stdout", Broken(OSError(number, os.strerror(number))))
    assert cli.main(["train", "--dry-run", "recipe.yaml"]) == code
    assert f"stdout: {os.strerror(number)}" in capsys.readouterr().err


@pytest.mark.whole
def test_signals_end_a_command_before_it_has_begun_to_work(tmp_path):
    """While it imports and reads; SIGHUP has the shell's exit code, SIGTERM the one that asks for another try."""
    (tmp_path / "slow.py").write_text("import os, sys, time\nprint('slow', flush=True)\ntime.sleep(60)\n")
    (tmp_path / "slow.yaml").write_text("model: {_target_: slow.Net}\ndata: {_target_: slow.Data, batch_size: 4}\n")
    command = [sys.executable, "-m", "lightning_diff", "train", "slow.yaml"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen(command, cwd=tmp_path, env=dict(os.environ), **pipes)
    fork = forked.start("train", "slow.yaml", cwd=tmp_path)
    for process, signum, code in ((started, signal.SIGTERM, 75), (fork, signal.SIGHUP, 129)):
        assert process.stdout.readline() == "slow\n"
        process.send_signal(signum)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == code, errors
        assert f"stopped by {signum.name}" in errors
        assert "Traceback" not in errors
        assert not (tmp_path / "runs").exists()
