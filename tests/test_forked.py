"""A forked command is what a started one is; only sooner."""

import os
import signal
import subprocess
import sys

import forked
import pytest

PROGRAM = """
import os, signal, sys

streams = [[each.fileno(), each.errors, each.line_buffering, each.isatty()] for each in (sys.stdin, sys.stdout, sys.stderr)]
print(sys.argv, os.getcwd(), os.environ["COLOUR"], "HUE" in os.environ, streams, sys.path[0])
print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)])
print(sys.stdin.read() == "", os.getpid() == int(os.popen("echo $PPID").read()), sorted(os.listdir("/proc/self/fd"))[:3])
print("one", file=sys.stderr)
if __name__ == "__main__":
    exec(sys.argv[1])
"""
ENDINGS = (
    "pass",
    "sys.exit(3)",
    "sys.exit('a sentence')",
    "raise SystemExit",
    "raise KeyError('k')",
    "os.kill(os.getpid(), signal.SIGKILL)",
    "signal.raise_signal(signal.SIGTERM)",
    "import atexit; atexit.register(print, 'late')",
    "import threading, time; threading.Timer(0.1, print, ['later']).start()",
    "os._exit(7)",
)


@pytest.mark.parametrize("ending", ENDINGS)
def test_it_has_the_streams_the_surroundings_and_the_end_of_a_started_process(tmp_path, monkeypatch, ending):
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setenv("COLOUR", "red")
    monkeypatch.delenv("HUE", raising=False)
    command = [sys.executable, str(tmp_path / "program.py"), ending]
    expected = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    done = forked.run(ending, program=tmp_path / "program.py", cwd=tmp_path)
    assert done.stdout.splitlines() == expected.stdout.splitlines()
    assert done.returncode == expected.returncode
    assert done.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]


def test_a_module_is_run_as_python_m_runs_it(tmp_path):
    (tmp_path / "tool.py").write_text(
        "import sys; print(__name__, __spec__.name, sys.argv, sys.path[0], sys.modules['__main__'].__file__)"
    )
    expected = subprocess.run([sys.executable, "-m", "tool", "x"], cwd=tmp_path, capture_output=True, text=True)
    assert forked.run("x", program="tool", cwd=tmp_path).stdout == expected.stdout


def test_signals_reach_it_and_what_it_started(tmp_path):
    (tmp_path / "sleeper.py").write_text(
        "import os, time; os.fork(); os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)"
    )
    process = forked.start(program=tmp_path / "sleeper.py")
    started = {int(process.stdout.readline()) for _ in range(2)}
    assert process.pid in started
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    assert process.communicate() == ("", "")  # the pipe is closed by all that held it
    assert process.returncode == -signal.SIGTERM


def test_two_processes_know_each_other(tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    (tmp_path / "who.py").write_text(f"import os; print(*(os.environ[name] for name in {names}))")
    assert [done.stdout for done in forked.run_two(program=tmp_path / "who.py")] == ["0 0 2\n", "1 1 2\n"]
