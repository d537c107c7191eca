"""One attempt of a training, as one or two forks of this process, and what happens to it: a signal, a full disk.

Everything is imported here once; starting Python anew would add seconds in which nothing of the run happens.
"""

import importlib
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

import lightning_diff.callbacks
import lightning_diff.data
import lightning_diff.runs.train  # noqa: F401  (imported once for all attempts)
from lightning_diff.cli import app as cli
from lightning_diff.foundation import caches
from lightning_diff.foundation.errors import STOP_SIGNALS, exit_code
from lightning_diff.modules import reward_epoch

from .fault_kinds import Kind, TinyAutoencoder

PHASES = ("starting", "step", "saving", "ending", "exploring", "regenerating", "measuring", "encoding")
NUMBERED = ("step", "saving", "exploring", "regenerating", "measuring", "encoding")
HANGS_SECONDS = 240.0
GRACE_SECONDS = 30.0  # from a launcher's SIGTERM to those that are left until its SIGKILL; torchrun's
STOPPED = tuple(map(exit_code, STOP_SIGNALS))
WORDS = "error: ", "stopped by "  # with which the last line of a run begins that ended in words


@dataclass(frozen=True)
class Fault:
    """What happens to an attempt, and where: at a phase such as "step 9", before an operation on files, or a while into a step.

    Attributes:
        kind: a signal's name, "full disk" or "corruption" (of the newest checkpoint, after a SIGKILL).
        place: a phase with or without its number; or the number of an operation on files, counted in the first process.
        seconds: after the place.
        whom: of two processes: "first", "other" or "all".
        bytes: of a full disk: how large a file may be.
    """

    kind: str
    place: str | int
    seconds: float = 0.0
    whom: str = "all"
    bytes: int = 0

    @property
    def signum(self) -> int:
        return getattr(signal, self.kind, signal.SIGKILL)


class Board:
    """Memory that outlives a killed process: where the first one was, and how many operations on files it had done."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 32)
        self.clear()

    def clear(self) -> None:
        self.write("starting", 0)
        self.operations, self.is_reached = 0, False

    def write(self, phase: str, step: int) -> None:
        self._memory[:16] = struct.pack("qq", PHASES.index(phase), step)

    @property
    def place(self) -> str:
        phase, step = struct.unpack("qq", self._memory[:16])
        return f"{PHASES[phase]} {step}" if PHASES[phase] in NUMBERED else PHASES[phase]

    @property
    def operations(self) -> int:
        return struct.unpack("q", self._memory[16:24])[0]

    @operations.setter
    def operations(self, number: int) -> None:
        self._memory[16:24] = struct.pack("q", number)

    @property
    def is_reached(self) -> bool:
        """Whether the place of the fault has been reached, for those that watch from outside."""
        return bool(self._memory[24])

    @is_reached.setter
    def is_reached(self, value: bool) -> None:
        self._memory[24] = value


BOARD = Board()
_fault: Fault | None = None  # of this process; only the first one of a run has one


def _at(*places: str | int) -> None:
    if _fault is None or _fault.place not in places:
        return
    if _fault.kind == "full disk":
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_fault.bytes, most))
        BOARD.is_reached = True
    elif _fault.seconds or _fault.whom == "other":
        BOARD.is_reached = True
    elif not BOARD.is_reached:
        BOARD.is_reached = True
        os.kill(os.getpid(), _fault.signum)


def note(phase: str, step: int) -> None:
    BOARD.write(phase, step)
    _at(phase, f"{phase} {step}")


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: sees each operation on files before it is done."""
    if event == "open":
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        is_write = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        is_change = is_write and not str(arguments[0]).startswith(("/dev", "/proc"))
    else:
        is_change = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
    if is_change:
        BOARD.operations += 1
        _at(BOARD.operations)


class Witness(Callback):
    """Notes on the board what the first process of a run is at; changes nothing."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.is_global_zero:
            note("step", trainer.global_step + 1)

    def on_save_checkpoint(self, trainer: Any, *_: Any) -> None:
        if trainer.is_global_zero:
            note("saving", trainer.global_step)

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        """Of models that draw what they train on: when it is drawn and about to be scored."""
        if trainer.is_global_zero:
            for module in (importlib.import_module("lightning_diff.rollouts.rollout"), reward_epoch):
                module.draw = witnessed(module.draw, trainer)

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        if trainer.is_global_zero:
            note("ending", trainer.global_step)


class WitnessedEncoder(TinyAutoencoder):
    """Notes on the board which batch the first process of a run encodes: the first is of zeros, the second of one image."""

    count = 0

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.count += 1
        if os.environ.get("RANK", "0") == "0":
            note("encoding", self.count)
        return super().encode(images)


def witnessed(draw: Callable[..., Any], trainer: Any) -> Callable[..., Any]:
    """`rollouts.rollout.draw`, noting its phases on the board."""
    names = {"explore": "exploring", "regenerate": "regenerating", "full": "regenerating", "measure": "measuring"}

    def noting(denoiser: Any, *, reward: Any, phase: str, **options: Any) -> Any:
        def noted(images: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            note(names[phase], trainer.global_step + 1)
            return reward(images, label)

        return draw(denoiser, reward=noted, phase=phase, **options)

    return noting


@dataclass
class Ended:
    """How an attempt ended.

    Attributes:
        codes: of its processes, negative for a signal.
        place: where it was when the fault met it; None if it ended before.
        operations: on files, that the first process began.
        said: what was printed.
    """

    codes: list[int]
    place: str | None
    operations: int
    said: str = field(repr=False)

    @property
    def is_done(self) -> bool:
        return not any(self.codes)

    @property
    def is_in_words(self) -> bool:
        """Whether those processes that no signal killed ended with a sentence and an exit code of the command line's."""
        codes = [code for code in self.codes if code >= 0]
        is_said = any(line.startswith(WORDS) for line in self.said.splitlines())
        return "Traceback" not in self.said and all(code in (0, 2, *STOPPED) for code in codes) and is_said


def attempt(folder: Path, kind: Kind, fault: Fault | None = None) -> Ended:
    """Run the command in a folder until it ends, one way or the other.

    Raises:
        TimeoutError: it did not.
    """
    BOARD.clear()
    shared = {}
    if kind.world > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
        shared |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "faults"}
    words = ["train", "faults.yaml", *kind.words]
    reading, writing = os.pipe()  # not a file: its size would be limited, too
    os.set_blocking(reading, False)
    running = {}
    for rank in range(kind.world):
        pid = os.fork()
        if not pid:
            _become(folder, writing, shared and {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            _train(words, None if rank else fault)
        running[pid] = rank
    os.close(writing)
    try:
        return _watch(running, reading, fault)
    finally:
        os.close(reading)


def _become(folder: Path, log: int, variables: dict[str, str]) -> None:
    os.setsid()
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.update(variables)
    os.environ[caches.OWN] = str(folder / "cache")  # what is encoded meets faults, too
    os.chdir(folder)


def _train(words: list[str], fault: Fault | None) -> None:
    global _fault
    code = 1
    try:
        if os.environ.get("RANK", "0") == "0":
            _fault = fault
            sys.addaudithook(_count)
        code = cli.main(words)
    except Exception:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _watch(running: dict[int, int], reading: int, fault: Fault | None) -> Ended:
    codes, said, place = [0] * len(running), [], None
    begun = time.monotonic()
    reached = ended = None
    is_told = False
    while running:
        time.sleep(0.001)
        with suppress(BlockingIOError):
            said.append(os.read(reading, 1 << 16))
        now = time.monotonic()
        if fault is not None and reached is None and BOARD.is_reached:
            reached = now
        if fault is not None and place is None and reached is not None and now - reached >= fault.seconds:
            place = BOARD.place
            if fault.kind != "full disk":
                _send(running, fault)
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[running.pop(pid)] = code = os.waitstatus_to_exitcode(status)
                ended = ended or (now if code else None)
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # its workers
        # As a launcher does once one of them has failed.
        if running and ended is not None and now - ended > (GRACE_SECONDS if is_told else 0.5):
            for pid in running:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if is_told else signal.SIGTERM)
            is_told = True
        if now - begun > HANGS_SECONDS:
            for pid in running:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise TimeoutError(f"still running after {now - begun:.0f} s, at {BOARD.place}: {b''.join(said)[-300:]!r}")
    with suppress(BlockingIOError):
        while some := os.read(reading, 1 << 16):
            said.append(some)
    if fault is not None and BOARD.is_reached and place is None and (fault.kind == "full disk" or not fault.seconds):
        place = BOARD.place
    return Ended(codes, place, BOARD.operations, b"".join(said).decode(errors="replace"))


def _send(running: dict[int, int], fault: Fault) -> None:
    """To those whom it is for; the first process has sent itself what comes without delay."""
    for pid, rank in running.items():
        is_meant = fault.whom == "all" or (fault.whom == "first") == (rank == 0)
        if is_meant and (rank or fault.seconds):
            with suppress(ProcessLookupError):
                os.kill(pid, fault.signum)
