"""Batches from worker processes: handed over in shared memory or through pipes, and never waited for without a word."""

import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, multiprocessing
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from ..foundation import stopping
from ..foundation.errors import STOP_SIGNALS, UserError
from ..foundation.processes import is_first_process
from .processors import allowed

SHARED_MEMORY = Path("/dev/shm")  # where there is one; 64 MB in a container unless it is told otherwise
PREFETCH = 2  # batches that each worker makes ahead
LOOK_SECONDS = 1.0  # between two looks at signals
WORD_SECONDS = 60.0  # without a batch, until that is said
LIMIT_SECONDS = 600.0  # without a batch, until the run ends

Batch = dict[str, Tensor]
Sent = Mapping[str, Tensor | np.ndarray]  # a batch as a worker hands it over


class WorkerLoader(DataLoader[Batch]):
    """torch's DataLoader for batches that are dictionaries of tensors, read by `workers` processes or, with 0, in this one.

    A worker puts a tensor into shared memory, and where that is full, sends its bytes through the pipe instead. (torch leaves that
    to a thread of the worker, where a failure loses the batch and the training waits for it for ever: pytorch#5040.) Without the
    means for any worker, batches are read in this process. Batches are the same in each of these cases.

    Args:
        dataset: makes a batch from positions.
        positions: of each batch.
        workers: how many; more than there are processors are kept and said, since those that wait for a disk need none.
        accumulation: batches in each optimiser step; between two steps a signal may end the wait for a batch.
        pin: hand batches over in pinned memory, from which a GPU copies them without being waited for.
        room: bytes of shared memory that the batches on their way take, of all processes of this machine; beyond half of what is
            free all go through pipes, which leaves room for others.
    """

    def __init__(
        self,
        dataset: Dataset[Batch],
        positions: Sampler[list[int]],
        workers: int,
        accumulation: int = 1,
        room: int = 0,
        pin: bool = False,
    ):
        shares = not workers or not room or _has(room, workers)
        super().__init__(
            dataset,
            batch_sampler=positions,
            collate_fn=partial(_handed_over, shares=shares),
            num_workers=workers,
            pin_memory=pin and workers > 0,  # by a thread; what this process makes is pinned when it is complete
            generator=torch.Generator(),  # or the loader would draw from the global one
            worker_init_fn=_leave_signals_to_the_run,
            prefetch_factor=PREFETCH if workers else None,
            timeout=LOOK_SECONDS if workers else 0,
        )
        self.positions, self.accumulation = positions, accumulation

    def check_worker_number_rationality(self) -> None:
        """Called by torch when the loader is made and when it starts: a line in place of a warning each time."""
        if self.num_workers > (most := allowed()) and is_first_process() and not hasattr(self, "_is_said"):
            plural = "s" * (most > 1)
            print(f"data.workers: {self.num_workers} on {most} processor{plural}; fewer may be faster", file=sys.stderr)
            self._is_said = True

    def __iter__(self) -> "Batches":  # type: ignore[override]
        try:
            if self.num_workers:
                multiprocessing.Queue().close()  # torch's iterator complains when it is not made to the end
            return Batches(super().__iter__(), self.num_workers, self.accumulation)
        except OSError as error:  # no semaphores, no pipes, no processes to be had
            if not self.num_workers:
                raise
            reason = error.strerror or error
            _warn(f"data.workers: none can be started ({reason}); images are read in the training process")
            here = map(self.dataset.__getitems__, self.positions)  # type: ignore[attr-defined]
            return Batches(here, 0, self.accumulation)


class Batches:
    """The iterator of a `WorkerLoader`; arguments as there."""

    def __init__(self, source: Iterator[Sent], workers: int, accumulation: int):
        self.source, self.workers, self.accumulation = source, workers, accumulation
        self.count = 0

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        is_between_steps = self.count % self.accumulation == 0
        # From workers it may be left at each look; in the middle of taking a batch from one, that one would complain.
        place: stopping.Place = "batch" if self.workers else "moment"
        with stopping.whole(place) if is_between_steps else nullcontext():
            batch = self._next()
        self.count += 1
        return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in batch.items()}

    def _next(self) -> Sent:
        start, is_said = time.monotonic(), False
        while True:
            stopping.check()
            try:
                return next(self.source)
            except StopIteration:
                raise
            except Exception as error:
                if not str(error).startswith("DataLoader timed out"):  # after which it may be asked again
                    self._end_workers()
                    raise
            waited = time.monotonic() - start
            what = f"data: no batch has come from {self.workers} worker(s) for {waited:.0f} s"
            if waited > LIMIT_SECONDS:
                raise UserError(f"{what}; does the disk answer? data.workers=0 reads in the training process")
            if waited > WORD_SECONDS and not is_said:
                is_said = True
                _warn(f"{what}; the run ends after {LIMIT_SECONDS:.0f} s")

    def _end_workers(self) -> None:
        """At once: an iterator that an error keeps until the garbage is collected cannot reach its workers any more, and waits."""
        end = getattr(self.source, "_shutdown_workers", None)
        if end is not None:
            end()


def _handed_over(batch: Batch, *, shares: bool) -> Sent:
    """A batch as it leaves the process that made it."""
    if get_worker_info() is None:
        return batch
    return {name: _shared(tensor) if shares else tensor.numpy() for name, tensor in batch.items()}


def _shared(tensor: Tensor) -> Tensor | np.ndarray:
    """In shared memory; as an array, which is sent by value, if there is no room."""
    try:
        tensor.share_memory_()
        return tensor
    except (RuntimeError, OSError):
        return tensor.numpy()


def _has(room: int, workers: int) -> bool:
    """Whether shared memory holds that much twice; says so if not."""
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # no such place: another system
        return True
    if 2 * room <= free:
        return True
    _warn(
        f"data.workers: {SHARED_MEMORY} has {free / 2**20:.0f} MB free, and the batches of {workers} workers may take "
        f"{room / 2**20:.0f} MB; they come through pipes instead, which is slower (docker run --shm-size=8g makes room)"
    )
    return False


def _leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, and a scheduler's signals every one of a job; the run decides when to stop."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
