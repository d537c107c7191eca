"""Large data sets: made images of simple shapes in tar shards, parquet and litdata, read by this project and by each library.

    python -m benchmarks.shards --folder /data/shapes [--images 1000000] [--size 64] [--read 20000] [--kinds tar] [--steps 2000]

Makes what is not there yet (benchmarks/shapes.py), then for each kind: images a second of one reader at positions of the stream,
alternately with the library's own shuffled loader with the same decoding on the same files, and with the noise that a step needs;
the hash of (position, label, pixels) of the first 10,000 examples, with 1 and 2 processes and 0 and 2 workers, and of a training
that is killed at a random step; and the memory of that training, which goes on through so many steps.
"""

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lightning_diff.data import Data, Datasets, LitData, Stream, WebDataset, loader
from lightning_diff.data.stream import taken

from . import shapes
from .shard_training import digest, killed_and_resumed, lines_of, resident

BATCH = 50
SOURCES = {"tar": WebDataset, "parquet": Datasets, "litdata": LitData}


def source(kind: str, place: Path, workers: int = 0) -> Data:
    return SOURCES[kind](path=place, batch_size=BATCH, workers=workers)


def theirs(kind: str, place: Path) -> Iterator[torch.Tensor]:
    """Images by the library's own shuffled loader, decoded as ours are."""
    if kind == "tar":
        import webdataset

        shards = sorted(map(str, place.glob("*.tar")))
        found = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000)
        encoded = (sample["png"] for sample in found)
    elif kind == "parquet":
        import datasets

        files = sorted(map(str, place.glob("*.parquet")))
        found = datasets.load_dataset("parquet", data_files=files, split="train").shuffle(seed=0)
        encoded = (row["image"]["bytes"] for row in found)
    else:
        import litdata

        encoded = (row["image"] for row in litdata.StreamingDataset(str(place), shuffle=True))
    for content in encoded:
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
        yield torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1


def rates(kind: str, place: Path, data: Data, images: int) -> str:
    """Images a second of CPU, the median of five turns: the library's loader, examples of the stream, and with their noise."""
    stream, library, found = Stream(data, 0), theirs(kind, place), []
    next(library)
    part = images // 5 // BATCH
    for turn in range(5):
        batches = [np.arange(BATCH) + BATCH * (turn * part + batch) for batch in range(part)]
        marks = [time.process_time()]
        for _ in range(part * BATCH):
            next(library)
        marks.append(time.process_time())
        for positions in batches:
            taken(stream.examples, stream._indices(positions), stream.seed, positions)
        marks.append(time.process_time())
        for positions in batches:
            stream.__getitems__(positions)
        marks.append(time.process_time())
        found.append(part * BATCH / np.diff(marks))
    other, ours, noisy = np.median(found, axis=0)
    return (
        f"images a second of CPU: the library's loader {other:,.0f}; ours {ours:,.0f}, ratio {ours / other:.2f}; "
        f"ours with noise {noisy:,.0f}"
    )


def loaded(kind: str, place: Path, processes: int, workers: int, count: int) -> str:
    """Digest of the first examples, by so many processes with so many workers each."""
    readers = [iter(loader(source(kind, place, workers), 0, rank, processes)) for rank in range(processes)]
    rows = (row for _ in range(count // BATCH) for reader in readers for row in lines_of(next(reader)))
    return digest({row[0]: row for row in rows}, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--read", type=int, default=20_000)
    parser.add_argument("--kinds", nargs="+", choices=shapes.KINDS, default=shapes.KINDS)
    parser.add_argument("--steps", type=int, default=2000, help="of the training that is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the step at which it is killed")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    count = min(10_000, chosen.images)
    for kind in chosen.kinds:
        begun = time.process_time()
        place = shapes.make(chosen.folder, kind, chosen.images, chosen.size).absolute()
        made, begun = time.process_time() - begun, time.process_time()
        data = source(kind, place)
        data.setup()
        print(f"{kind}: {data.summary()}; made in {made:.0f} s of CPU, set up in {time.process_time() - begun:.1f}")
        print(f"  resident, private and mapped: {resident()[0]:.0f} and {resident()[1]:.0f} MiB")
        print(f"  {rates(kind, place, data, chosen.read)}", flush=True)
        found = {
            f"{processes} x {workers}": loaded(kind, place, processes, workers, count)
            for processes, workers in ((1, 0), (2, 0), (1, 2), (2, 2))
        }
        print(f"  first {count:,} examples (processes x workers): {found}", flush=True)
        folder = chosen.folder / f"run-{kind}-{time.time():.0f}"
        name = SOURCES[kind].__name__
        after, at, memory = killed_and_resumed(folder, name, place, BATCH, count, chosen.steps, 2, chosen.seed)
        print(
            f"  killed at step {at} and resumed: {after}, {'the same' if {after} == set(found.values()) else 'OTHER'}"
        )
        first, middle, last = memory[0], memory[len(memory) // 2], memory[-1]
        for row in (first, middle, last):
            print(f"  memory at step {row[0]:,.0f}: {row[1]:,.0f} MiB private, {row[2]:,.0f} MiB of mapped files")


if __name__ == "__main__":
    main()
