"""Runs of a grid, each in a process of its own, some of them at the same time.

What one run does to its process (memory, devices, a crash) is not the next one's business, and one that fails stops no other. A
signal is handed on to those that train, which save and stop; the rest are not begun.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ..foundation import stopping
from ..foundation.errors import STOP_SIGNALS, UserError, exit_code
from . import listing
from .folder import folder_of
from .grid import Point

STOPPED = tuple(map(exit_code, STOP_SIGNALS))  # exit codes of a run that saved and stopped
PATIENCE_SECONDS = 5.0  # for the last lines of a run that has ended
NOT_BEGUN = -1000  # in an exit code's place; those of signals are small and negative


@dataclass
class Running:
    """A run that trains: its process, and who prints what it says."""

    point: Point
    process: subprocess.Popen[str]
    printer: threading.Thread | None


def refuse_launched(jobs: int) -> None:
    """UserError for several runs at a time under a launcher, whose processes train one run together."""
    if jobs > 1 and (world := launched()) > 1:
        raise UserError(f"--jobs: a launcher started {world} processes for each run; leave --jobs out")


def launched() -> int:
    """Processes that a launcher says it has started, 1 without one."""
    return max(int(text) for name in ("WORLD_SIZE", "SLURM_NTASKS") if (text := os.environ.get(name, "1")).isdigit())


def run(points: Sequence[Point], jobs: int) -> int:
    """Train all; prints a summary and returns an exit code: 0, 1 if a run failed, 75 or 130 if they were stopped.

    Args:
        points: checked.
        jobs: how many at a time, >= 1.
    """
    codes = dict.fromkeys(range(len(points)), NOT_BEGUN)
    waiting, running = deque(range(len(points))), dict[int, tuple[int, Running]]()  # slot -> number and run
    handed_on = 0
    with stopping.saving(), _noted() as received:  # the runs, not this process, say how long it takes to stop
        while running or (waiting and not received):
            for slot in range(jobs):
                if slot not in running and waiting and not received:
                    number = waiting.popleft()
                    running[slot] = (number, _begin(points[number], slot, jobs))
            for signum in received[handed_on:]:
                for _, one in running.values():
                    one.process.send_signal(signum)
                handed_on += 1
            for slot, (number, one) in list(running.items()):
                if (code := one.process.poll()) is not None:
                    if one.printer is not None:
                        one.printer.join(PATIENCE_SECONDS)
                    codes[number] = code
                    del running[slot]
            time.sleep(0.05)
    print(_summary(points, codes), flush=True)
    if received:
        return exit_code(received[0])
    ended = [code for code in codes.values() if code]
    if any(code not in STOPPED for code in ended):
        return 1
    return ended[0] if ended else 0


def _begin(point: Point, slot: int, jobs: int) -> Running:
    """Start a run: with the terminal to itself, or, beside others, each of its lines after what tells it from them."""
    pipe = subprocess.PIPE if jobs > 1 else None
    process = subprocess.Popen(
        _command(point),
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=subprocess.STDOUT if jobs > 1 else None,
        text=True,
        errors="replace",
        env=environment(slot, jobs),
        process_group=0,  # Ctrl-C is handed on, once
    )
    printer = None
    if process.stdout is not None:
        name = point.label or point.settings["name"]
        printer = threading.Thread(target=_print_lines, args=(process, name), daemon=True)
        printer.start()
    else:
        print(f"--- {point.settings['name']}", flush=True)
    return Running(point, process, printer)


def _command(point: Point) -> list[str]:
    return [sys.executable, "-m", __name__.partition(".")[0], "train", point.word, *point.overrides]


def _print_lines(process: subprocess.Popen[str], name: str) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if line.strip():
                print(f"[{name}] {line.rstrip()}", flush=True)


def environment(slot: int, jobs: int) -> dict[str, str]:
    """This one's, where the package can be imported from; beside others with a share of the cores and of the GPUs."""
    own = dict(os.environ)
    root = Path(__file__).parents[2]
    if "site-packages" not in root.parts:
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), own.get("PYTHONPATH")]))
    if jobs > 1:
        own.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // jobs, 1)))
        if gpus := _gpus():
            own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot::jobs] or [gpus[slot % len(gpus)]])
    return own


def _gpus() -> list[str]:
    from ..foundation import devices  # torch: a second

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(devices.count())]


@contextmanager
def _noted() -> Iterator[list[int]]:
    """Yields the signals that came so far, in place of what they do otherwise."""
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)

    before = {
        signum: signal.signal(signum, note) for signum in STOP_SIGNALS if signal.getsignal(signum) != signal.SIG_IGN
    }
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _summary(points: Sequence[Point], codes: dict[int, int]) -> str:
    """A line for each run: how it ended, and what `listing` tells of it."""
    lines: list[tuple[str, ...]] = [("run", "ended", "step", "loss", "best figure")]
    for number, point in enumerate(points):
        folder = folder_of(point.settings)
        told: tuple[str, ...] = ("", "", "")
        if listing.is_run(folder):
            _, step, _, loss, best, *_ = listing.one(folder).cells()
            told = (step, loss, best)
        lines.append((point.settings["name"], _ending(codes[number]), *told))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(["", *table])


def _ending(code: int) -> str:
    if code == 0:
        return "done"
    if code == NOT_BEGUN:
        return "not begun"
    if code in STOPPED:
        return "stopped"
    return f"failed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
