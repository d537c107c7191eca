"""What feeding a device costs the host: bytes and microseconds for each training example, and how many one process can feed.

    OMP_NUM_THREADS=1 python benchmarks/feeding.py [--batch 256] [--batches 12] [--rounds 3]

For images of 3x32x32 and 3x64x64 kept as bytes, and latents of 4x64x64 kept in float16 and float32, with 0 and 2 workers. Sizes and
workers alternate in each round. Reading and augmenting files is no part of it: examples are in memory. Prints, for each example,

    bytes   that go to the device: image, noise, level, position, label
    host    CPU time of the training process, which also launches the work of the device: all with 0 workers, taking batches over
            with 2
    all     CPU time of the training process and its workers
    images/s by the clock, of a process that does nothing else; it depends on what else the machine does

medians over rounds. The last column is the greatest rate that the training process's own share allows, 1 / host.
"""

import argparse
import os
import statistics
import time
from itertools import islice, product

import torch

from lightning_diff.data import ImageSet, Stream
from lightning_diff.data.stream import Positions
from lightning_diff.data.workers import WorkerLoader

N = 2048
SIZES = {
    "3x32x32 uint8": ((3, 32, 32), torch.uint8),
    "3x64x64 uint8": ((3, 64, 64), torch.uint8),
    "4x64x64 float16": ((4, 64, 64), torch.float16),
    "4x64x64 float32": ((4, 64, 64), torch.float32),
}


class Memory:
    """As much of a source of data as a stream looks at."""

    flip, augment, num_classes = True, None, 10

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, batch_size: int):
        values = torch.randint(0, 256, (N, *shape), dtype=torch.uint8)
        pixels = values if dtype is torch.uint8 else (values.float() / 64 - 2).to(dtype)
        self.train = ImageSet(pixels, torch.arange(N) % 10)
        self.batch_size = batch_size


def measured(source: Memory, workers: int, batches: int) -> tuple[float, float, float, float]:
    """(bytes, host microseconds, all microseconds, images per second) for each example."""
    stream = Stream(source, 0)  # type: ignore[arg-type]
    room = sum(tensor.nbytes for tensor in stream.__getitems__([0]).values())
    load = WorkerLoader(
        stream, Positions(source.batch_size), workers, room=room * source.batch_size * 6 * bool(workers)
    )
    iterator = iter(load)
    for _ in islice(iterator, 1 + 2 * workers):  # workers have started, and what was made ahead is taken
        pass
    before, own, clock = os.times(), time.process_time(), time.perf_counter()
    for _ in islice(iterator, batches):
        pass
    host, seconds = time.process_time() - own, time.perf_counter() - clock
    images = batches * source.batch_size
    shut = getattr(iterator.source, "_shutdown_workers", None)
    if shut is not None and workers:
        shut()
    ended = os.times()
    children = ended.children_user + ended.children_system - before.children_user - before.children_system
    made = images + source.batch_size * (1 + 4 * workers)  # by workers, since they started; some were never taken
    return room, 1e6 * host / images, 1e6 * (host / images + children / made), images / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = {name: Memory(shape, dtype, options.batch) for name, (shape, dtype) in SIZES.items()}
    cases = list(product(sources, (0, 2)))
    found: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for name, workers in cases:
            found[name, workers].append(measured(sources[name], workers, options.batches))
    print(
        "| examples | workers | bytes | host µs | all µs | images/s | images/s by host |\n|---|---|---|---|---|---|---|"
    )
    for (name, workers), rows in found.items():
        size, host, everything, rate = (statistics.median(column) for column in zip(*rows, strict=True))
        bound = 1e6 / host if host else float("inf")
        print(f"| {name} | {workers} | {size:,.0f} | {host:.0f} | {everything:.0f} | {rate:,.0f} | {bound:,.0f} |")


if __name__ == "__main__":
    main()
