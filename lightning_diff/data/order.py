"""In which order an epoch shows the images: a function of (seed, epoch) alone.

    full      a permutation of all images: every image is read from any place
    windowed  for what cannot be read from any place quickly: the shards in an order of their own, and within a window of so many
              images, which moves from one shard into the next, a permutation
    bucketed  for images of several shapes: batches of one shape each, in an order of their own

All need 8 bytes for each image in memory, for one epoch and, where a batch straddles two, for both.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from ..foundation import rng


def full(seed: int, epoch: int, n: int) -> Int64[np.ndarray, " n"]:
    """A permutation of range(n)."""
    return rng.permutation(seed, "image", epoch, n)


def windowed(seed: int, epoch: int, shards: Sequence[int], window: int) -> Int64[np.ndarray, " n"]:
    """Every image once: shards one after another in an order of the epoch's, shuffled in windows.

    Images that are shown together come from a window of `window` images, which lie in a few shards next to each other in that
    order: what is read while it lasts is as much as the window and, at its ends, parts of two shards.

    Args:
        shards: images in each, in the order in which they are numbered.
        window: images that are shuffled together, >= 1.
    """
    starts = np.concatenate([[0], np.cumsum(np.asarray(shards, np.int64))])
    order = rng.permutation(seed, "shard", epoch, len(shards))
    lined_up = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order.tolist()])
    shift = int(rng.uniform(seed, "window", [epoch])[0] * window)  # so that the same images do not always meet
    keys = rng.keys(rng.key(seed, "within window", epoch), "permutation", np.arange(len(lined_up), dtype=np.int64))
    chosen: Int64[np.ndarray, " n"] = lined_up[np.lexsort((keys, (np.arange(len(lined_up)) + shift) // window))]
    return chosen


def bucketed(
    seed: int, epoch: int, buckets: Sequence[Int64[np.ndarray, " _"]], batch_size: int
) -> Int64[np.ndarray, " n"]:
    """Batches that lie in one bucket each: every image of the buckets once, but for those that fill no batch.

    A bucket of n images leaves n mod batch_size of them out: those that follow each other on a circle of its own, on which each
    epoch goes on where the last one ended. So in n epochs every image is left out equally often.

    Args:
        buckets: indices of the images in each.
        batch_size: images that have to be of one bucket.
    """
    batches = [
        _shown(seed, epoch, f"bucket {number}", members, len(members) % batch_size).reshape(-1, batch_size)
        for number, members in enumerate(buckets)
    ]
    every = np.concatenate(batches)
    order: Int64[np.ndarray, " n"] = every[rng.permutation(seed, "batch", epoch, len(every))].reshape(-1)
    return order


def _shown(
    seed: int, epoch: int, purpose: str, members: Int64[np.ndarray, " _"], left_out: int
) -> Int64[np.ndarray, " _"]:
    """The images of a bucket in an order of the epoch's, but for those whose turn it is to be left out."""
    n = len(members)
    circle = rng.permutation(seed, f"{purpose} left out", 0, n)
    stays = np.ones(n, bool)
    stays[circle[(epoch * left_out + np.arange(left_out)) % max(n, 1)]] = False
    order = rng.permutation(seed, purpose, epoch, n)
    chosen: Int64[np.ndarray, " _"] = members[order[stays[order]]]
    return chosen
