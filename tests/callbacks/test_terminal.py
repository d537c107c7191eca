"""What stands on a terminal while a run trains: read back from a pseudo-terminal by a terminal emulator."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import traceback
import warnings
from collections.abc import Callable

import pyte
import pytest

from lightning_diff.foundation.progress import each, stage
from lightning_diff.runs.console import say

ROWS = 200


def on_terminal(columns: int, work: Callable[[], object]) -> tuple[list[str], str]:
    """Lines of the screen after `work` has run in a process with a terminal of that width, and all that was sent to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that the process has threads
        pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        os.environ["TERM"] = "xterm-256color"
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), line_buffering=True) for fd in (1, 2)
        )
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    sent = b""
    while True:
        try:
            some = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not some:
            break
        sent += some
    assert os.waitpid(pid, 0)[1] == 0, sent.decode()
    screen = pyte.Screen(columns, ROWS)
    pyte.ByteStream(screen).feed(sent)
    return [line.rstrip() for line in screen.display if line.strip()], sent.decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_every_printed_line_of_a_training_stands_alone_and_the_bar_below(train, columns):
    grid = "{_target_: lightning_diff.callbacks.SampleGrid, every: 64, columns: 2, steps: 2}"
    options = (
        "data={_target_: lightning_diff.data.Digits, batch_size: 16}",
        "model.net={_target_: lightning_diff.nets.UNet, channels: 16, channel_mult: [1], num_blocks: 1, attention: []}",
        f"callbacks=[{{_target_: chatty.Chatty}}, {grid}]",
    )
    lines, sent = on_terminal(columns, lambda: train("run", *options))
    said = [line for line in lines if line.startswith("line ")]
    numbers = [int(re.fullmatch(r"line \w+ (\d+) \.", line)[1]) for line in said]
    assert numbers == list(range(1, len(said) + 1))
    assert len(said) == 1 + 3 * 8 + 2
    (bar,) = [line for line in lines if line.startswith("diffusion ")]
    assert re.search(r"100% 128/128 \[\d\d:\d\d<00:00, \S+ image/s, loss \d\.\d{4}\]$", bar), bar
    assert len(bar) <= columns
    assert not any("sampling" in line for line in lines)  # any more
    assert "sampling" in sent
    assert lines[-1].startswith("runs/run: done")


def test_no_word_is_cut_at_the_edge_with_a_bar_or_without():
    path = f"runs/{'long' * 12}"
    text = f"150 steps = 19,200 images; the newest 2 kept\nin {path}"

    def work() -> None:
        say(text)
        with stage("training", 100, "image"):
            say(text)

    lines, _ = on_terminal(42, work)
    assert lines.count("150 steps = 19,200 images; the newest 2") == 2
    assert " ".join(lines).split().count("kept") == 2
    assert "".join(lines).count(path) == 2  # longer than a line


def test_the_rate_stands_still_when_the_work_has_ended():
    def work() -> None:
        with stage("training", 100, "image", keep=True) as bar:
            bar.reach(100)
            bar.stop()
            before = bar.text()
            for _ in each(range(30), "drawing", 30, "call"):
                os.sched_yield()
            bar.draw(now=True)
            assert bar.text() == before
            print("x" * 30)

    lines, _ = on_terminal(80, work)
    assert [line.split()[0] for line in lines] == ["x" * 30, "training"]


def test_an_error_in_a_stage_leaves_the_terminal_whole():
    def work() -> None:
        with pytest.raises(RuntimeError), stage("one", 3, "call"), stage("two", 3, "call"):
            raise RuntimeError
        print("after")

    lines, sent = on_terminal(80, work)
    assert lines == ["after"]
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l")  # the cursor is shown again


def test_without_a_terminal_there_is_nothing_or_a_line_now_and_then(capsys):
    with stage("silent", 3, "call") as bar:
        bar.advance(3)
    with stage("training", 2000, "image", lines=True) as bar:
        bar.reach(1000, "loss 1.0000")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"training 1k/2k \[00:00<00:00, \S+ image/s, loss 1\.0000\]\n", err)
