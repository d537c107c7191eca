"""Commands as processes of their own that start at once: forks of one process that has imported what they need.

Importing torch and Lightning takes seconds, which a test of a command would spend before anything of it happens. Here one process
for each worker of pytest imports them once (the parent: this file as a program), and each command is a fork of it, with arguments,
working folder, environment, streams, session and exit code of its own; then it does what `python -m lightning_diff` does.

    done = forked.run("train", "recipe.yaml", cwd=folder)  # done.returncode, done.stdout, done.stderr
    process = forked.start("train", "recipe.yaml")  # process.stdout to read, process.pid to send signals to
    one, two = forked.run_two("train", "recipe.yaml", "trainer.devices=2")  # as torchrun starts two processes

Not for tests of what happens while Python starts or imports, nor of variables that are read then (PYTHONUTF8, OMP_NUM_THREADS):
these run `sys.executable`. Nor does the interpreter take itself apart in the end.
"""

import atexit
import gc
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
import pytest

PRELOADED = (
    "beartype",
    "lightning_diff.callbacks",
    "lightning_diff.cli.app",
    "lightning_diff.data",
    "lightning_diff.modules",
    "lightning_diff.rewards",
    "lightning_diff.runs.sample",
    "lightning_diff.runs.train",
    "lightning_diff.schedules",
    "omegaconf",
    "pydantic",  # typer's
    "sklearn.datasets",
)
TIMEOUT_SECONDS = 240.0


# In the tests' process.


class Process:
    """A started command: what tests need of `subprocess.Popen`. It leads a session, so that `os.killpg` reaches what it started."""

    def __init__(self, pid: int, stdout: IO[str], stderr: int):
        self.pid, self.stdout, self._stderr = pid, stdout, stderr
        self.returncode: int | None = None

    def __del__(self) -> None:
        self.stdout.close()
        os.close(self._stderr)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _parent().code(self.pid, 0.0)
        return self.returncode

    def wait(self, timeout: float = TIMEOUT_SECONDS) -> int:
        """The exit code, negative for a signal. subprocess.TimeoutExpired after so many seconds, and the process is killed."""
        if self.returncode is None:
            self.returncode = _parent().code(self.pid, timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(str(self.pid), timeout, stderr=self.errors())
        return self.returncode

    def communicate(self, timeout: float = TIMEOUT_SECONDS) -> tuple[str, str]:
        """What is still to be read of its output, and all errors, when it has ended."""
        timer = threading.Timer(timeout, self.kill)
        timer.start()
        try:
            with self.stdout:
                output = self.stdout.read()
        finally:
            timer.cancel()
        self.wait(timeout)
        return output, self.errors()

    def errors(self) -> str:
        """What it has written to stderr so far."""
        return os.pread(self._stderr, os.fstat(self._stderr).st_size, 0).decode(errors="replace")

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """With everything that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def start(
    *words: object, program: str | Path = "lightning_diff", cwd: str | Path = ".", env: Mapping[str, str] | None = None
) -> Process:
    """Start a module, or the file of a script, with these arguments.

    Args:
        env: variables beside those of this process.
    """
    reading, writing = os.pipe()
    errors, path = tempfile.mkstemp()
    os.unlink(path)
    request = {
        "program": str(program),
        "words": [str(word) for word in words],
        "cwd": str(Path(cwd).absolute()),
        "environment": {**os.environ, **(env or {})},
    }
    pid = _parent().fork(request, (writing, errors))
    os.close(writing)
    return Process(pid, os.fdopen(reading, errors="replace"), errors)


def run(*words: object, timeout: float = TIMEOUT_SECONDS, **where: Any) -> subprocess.CompletedProcess[str]:
    """Start a command and wait for its end; arguments as `start`."""
    process = start(*words, **where)
    output, errors = process.communicate(timeout)
    return subprocess.CompletedProcess(words, process.wait(), output, errors)


def run_two(*words: object, codes: tuple[int, int] = (0, 0), **where: Any) -> list[subprocess.CompletedProcess[str]]:
    """The same command as the two processes of one training, as torchrun starts them. Asserts how they end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "forked"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | dict(where.pop("env", {}))
    processes = [start(*words, **where, env=shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    try:
        done = [(process.communicate(), process.wait()) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert tuple(code for _, code in done) == codes, "\n".join(errors for (_, errors), _ in done)
    return [subprocess.CompletedProcess(words, code, *said) for said, code in done]


class _Parent:
    """This process's end of the parent: asks it for forks, and hears their exit codes."""

    def __init__(self) -> None:
        self._connection, other = Pipe()
        command = [sys.executable, __file__, str(other.fileno())]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # so that it tests the same package
        with other:
            self._process = subprocess.Popen(
                command, env=environment, pass_fds=[other.fileno()], start_new_session=True
            )
        self._codes: dict[int, int] = {}
        self._owner = os.getpid()
        atexit.register(self._end)

    def fork(self, request: dict[str, Any], streams: Sequence[int]) -> int:
        self._connection.send(request)
        for stream in streams:
            reduction.send_handle(self._connection, stream, self._process.pid)
        while True:  # codes of earlier ones may come first
            pid, code = self._connection.recv()
            if code is None:
                return pid
            self._codes[pid] = code

    def code(self, pid: int, timeout: float) -> int | None:
        while pid not in self._codes:
            if not self._connection.poll(timeout):
                return None
            ended, code = self._connection.recv()
            self._codes[ended] = code
        return self._codes[pid]

    def _end(self) -> None:
        if os.getpid() == self._owner:
            self._connection.close()
            self._process.wait()


_parents: list[_Parent] = []


def _parent() -> _Parent:
    if not hasattr(os, "fork"):
        pytest.skip("commands are forks")
    if not _parents:
        _parents.append(_Parent())
    return _parents[0]


# In the parent.


def serve(connection: Connection) -> dict[str, Any] | None:
    """Fork for each request, and tell each fork's number and later its exit code. Returns in a fork, with its request.

    None when the tests have ended; what still runs is then killed.
    """
    hearing, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: set[int] = set()
    while True:
        ready = wait([connection, hearing])
        if hearing in ready:
            os.read(hearing, 512)
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    running.remove(pid)
                    with suppress(OSError):
                        connection.send((pid, os.waitstatus_to_exitcode(status)))
        if connection not in ready:
            continue
        try:
            request = connection.recv()
            streams = [reduction.recv_handle(connection) for _ in range(2)]
        except (EOFError, OSError):
            break
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(hearing)
            os.close(told)
            connection.close()
            _become(streams, request)
            return request
        for stream in streams:
            os.close(stream)
        running.add(pid)
        connection.send((pid, None))
    for pid in running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return None


def _become(streams: Sequence[int], request: Mapping[str, Any]) -> None:
    """What a started process has of its own."""
    os.setsid()
    for number, stream in zip((0, 1, 2), (os.open(os.devnull, os.O_RDONLY), *streams), strict=True):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = map(_reopened, (0, 1, 2), (sys.stdin, sys.stdout, sys.stderr))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    np.random.seed()  # noqa: NPY002 (every started process has a state of its own)


def _reopened(number: int, stream: Any) -> TextIO:
    """Standard stream `number`, used as Python had begun to; whether it can be sought a stream finds out when it is opened."""
    buffering = 0 if stream.write_through and number else -1  # PYTHONUNBUFFERED
    raw: Any = os.fdopen(number, "wb" if number else "rb", buffering=buffering, closefd=False)
    options = {"encoding": stream.encoding, "errors": stream.errors, "write_through": stream.write_through}
    return TextIOWrapper(raw, **options, line_buffering=number == 2 and stream.line_buffering)


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # no fork copies pages only to look for garbage in them
    request = serve(Connection(int(sys.argv[1])))
    if request is None:
        return
    program, sys.argv[1:] = request["program"], request["words"]
    _end(_code_of(program))


def _code_of(program: str) -> int:
    try:
        if program.endswith(".py"):
            sys.argv[0], sys.path[0] = program, str(Path(program).parent.absolute())
            runpy.run_path(program, run_name="__main__")
        else:
            sys.path[0] = os.getcwd()
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> None:
    """As the interpreter ends, but for deleting all that was imported, which takes longer than the rest of a short command."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
