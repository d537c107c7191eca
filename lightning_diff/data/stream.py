"""The position-addressed stream: training example number p is a function of (seed, p).

Nothing here has state to save. "Resume" is "continue at position p", and 1, 2 or 8 processes, with or without
accumulation, draw the same examples at the same step.
"""

import atexit
import math
import multiprocessing.util  # whose own atexit must be there first
import signal
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..condition import AnyCondition, into_batch
from ..foundation import rng
from ..foundation.errors import UserError
from . import order
from .image_set import Examples
from .source import Data
from .workers import PREFETCH, Batch, WorkerLoader


class Stream(Dataset[Batch]):
    """Examples by position. N is the size of the training set, B the global batch size:

        epoch   e = p // N
        image   permutation_e(p mod N), so that every epoch shows every image once (see `order`)
        flip    with probability 1/2, if the data say so
        u       ((p mod B) + uniform) / B: one in each of B strata of (0, 1), in any B positions that follow each other
        noise   standard normal

    Of images in buckets an epoch shows n <= N, a multiple of B, so that p // n is the epoch, and the B positions of an optimiser
    step are of one shape (see `order.bucketed`).

    Args:
        data: where the images come from, and batch_size, flip, augment.
        seed: the run's.

    Raises:
        UserError: a bucket that fills no batch.
    """

    def __init__(self, data: Data, seed: int):
        self.examples = data.train
        self.conditional = data.num_classes > 0 or data.condition_shapes is not None
        self.batch_size, self.augment, self.seed = data.batch_size, data.augment, seed
        self.flip = data.flip and not getattr(self.examples, "mirrors", False)  # latents mirror what they are of
        self._orders: dict[int, Int64[np.ndarray, " n"]] = {}
        self.buckets, self.per_epoch = data.in_buckets, len(self.examples)
        if self.buckets is not None:
            self.buckets.refuse_small(data.name, self.batch_size)
            self.per_epoch = self.buckets.per_epoch(self.batch_size)
            self._members = self.buckets.members

    def __getitems__(self, positions: Int64[np.ndarray, " b"] | Sequence[int]) -> Batch:
        """One batch; of images in buckets, at positions of one optimiser step.

        Returns:
            "image" (B, ...) float32, "noise" like it, "u" (B,) float64 in (0, 1), "position" (B,) int64; with labels
            "label" (B,) int64, with a condition "condition.NAME" (B, ...) for each of its tensors;
            with augmentation "augment" (B, augment.dim) float32, zero for an untouched image.
        """
        p = np.asarray(positions, np.int64)
        image, given = taken(self.examples, self._indices(p), self.seed, p)
        if self.flip:
            mirror = torch.from_numpy(rng.uniform(self.seed, "flip", p) < 0.5)
            image[mirror] = image[mirror].flip(-1)
        batch = {"image": image, **drawn(self.seed, p, self.batch_size, image.shape[1:])}
        if self.conditional:
            batch |= into_batch(given)
        if self.augment is not None:
            batch["image"], batch["augment"] = self.augment(image, self.seed, p)
        return batch

    def _indices(self, p: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        n = self.per_epoch
        epochs = p // n
        indices = np.empty_like(p)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            indices[here] = self._order(epoch)[p[here] % n]
        return indices

    def _order(self, epoch: int) -> Int64[np.ndarray, " n"]:
        if epoch not in self._orders:
            while len(self._orders) >= 2:  # a batch may straddle two epochs
                del self._orders[min(self._orders)]
            self._orders[epoch] = self._made_order(epoch)
        return self._orders[epoch]

    def _made_order(self, epoch: int) -> Int64[np.ndarray, " n"]:
        if self.buckets is not None:
            return order.bucketed(self.seed, epoch, self._members, self.batch_size)
        own = getattr(self.examples, "order", None)  # of what cannot be read from any place as quickly
        made: Int64[np.ndarray, " n"] = (
            order.full(self.seed, epoch, len(self.examples)) if own is None else own(self.seed, epoch)
        )
        return made

    def most_bytes(self, position: int) -> int:
        """Of one example as a batch holds it, of the largest shape; that at `position` is read for it."""
        batch = self.__getitems__([position])
        values, bytes_of_it = batch["image"].numel(), sum(tensor.nbytes for tensor in batch.values())
        shapes = [batch["image"].shape[1:]] if self.buckets is None else self.buckets.shapes
        return -(-bytes_of_it * max(map(math.prod, shapes)) // max(values, 1))


def taken(
    examples: Examples, indices: Int64[np.ndarray, " b"], seed: int, positions: Int64[np.ndarray, " b"]
) -> tuple[Float32[Tensor, "b ..."], AnyCondition | None]:
    """Images, and what they are conditioned on, as training sees them at these positions.

    Examples that choose something anew at each position (a crop, one of several captions) say so by `take_at`: a function of
    (index, seed, position) alone, by `foundation.rng`. `take` stays what metrics and pictures read, and chooses nothing.

    Args:
        examples: to take from.
        indices: of the examples.
        seed: the run's.
        positions: at which these examples stand.
    """
    take_at = getattr(examples, "take_at", None)
    return examples.take(indices) if take_at is None else take_at(indices, seed, positions)


def drawn(seed: int, positions: Int64[np.ndarray, " b"], batch_size: int, shape: Sequence[int]) -> Batch:
    """What is drawn for the examples at these positions, whatever their images are: "u", "noise" and "position".

    Args:
        seed: the run's.
        positions: of the examples.
        batch_size: strata of u, see `Stream`.
        shape: of one example.
    """
    jitter = rng.uniform(seed, "level", positions)
    return {
        # A jitter next to 1 in the last stratum would round to 1, where a noise law is infinite.
        "u": torch.from_numpy(((positions % batch_size + jitter) / batch_size).clip(max=1 - 2.0**-53)),
        "noise": rng.normal(seed, "noise", positions, shape),
        "position": torch.from_numpy(positions),
    }


class Positions(Sampler[list[int]]):
    """The positions of each micro-batch, without end.

    Step k takes positions start + k B ... start + (k+1) B - 1, whatever the number of processes. Of these, micro-batch
    a of A on rank r of W takes every (A W)-th, from the (a W + r)-th on, so that each covers the noise levels evenly.

    Args:
        batch_size: B, images per optimiser step, a multiple of world * accumulation.
        rank: r, 0 <= r < world.
        world: W, number of processes.
        accumulation: A, micro-batches per optimiser step.
        start: images seen so far.
    """

    def __init__(self, batch_size: int, rank: int = 0, world: int = 1, accumulation: int = 1, start: int = 0):
        if not 0 <= rank < world or accumulation < 1 or start < 0:
            raise ValueError(
                "Positions: need 0 <= rank < world, accumulation >= 1 and start >= 0, "
                f"got rank={rank}, world={world}, accumulation={accumulation}, start={start}"
            )
        if batch_size % (world * accumulation):
            raise UserError(
                f"batch_size {batch_size} does not divide by {world} device(s) x {accumulation} accumulated "
                f"micro-batch(es) = {world * accumulation}; choose a multiple of {world * accumulation}"
            )
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.accumulation, self.start = accumulation, start

    def __iter__(self) -> Iterator[list[int]]:
        first, stride = self.start, self.accumulation * self.world
        while True:
            for micro in range(self.accumulation):
                yield list(range(first + micro * self.world + self.rank, first + self.batch_size, stride))
            first += self.batch_size

    def __len__(self) -> int:
        # Lightning reads one batch ahead of a loader without a length, and loses that batch when it resumes.
        return 2**40


def loader(
    data: Data, seed: int, rank: int = 0, world: int = 1, accumulation: int = 1, start: int = 0, pin: bool = False
) -> WorkerLoader:
    """Micro-batches of one process, from position `start` on; arguments as for `Stream`, `Positions` and `WorkerLoader`.

    Raises:
        UserError: images in buckets, and a start in the middle of a batch.
    """
    stream, positions = Stream(data, seed), Positions(data.batch_size, rank, world, accumulation, start)
    if stream.buckets is not None and start % data.batch_size:
        raise UserError(
            f"{data.name}: buckets: the training stands at image {start:,}, in the middle of a batch of {data.batch_size}; keep "
            "the batch_size that it had"
        )
    room = 0
    if data.workers:
        # Of each process: a batch that is trained with, one that comes next, and what so many workers make ahead.
        room = stream.most_bytes(start) * (data.batch_size // accumulation) * (2 + PREFETCH * data.workers)
    return WorkerLoader(stream, positions, data.workers, accumulation, room, pin)


@atexit.register
def _end_workers() -> None:
    """Of loaders that nobody closed, after an error: multiprocessing would send SIGTERM, which they ignore, and wait for ever."""
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise at each death
    for worker in workers:
        worker.kill()
