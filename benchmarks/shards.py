"""Large data sets: made images of simple shapes in tar shards, parquet and litdata, read by this project and by each library.

    python benchmarks/shards.py --folder /data/shapes [--images 1000000] [--size 64] [--read 20000] [--kinds tar]

Makes what is not there yet, then for each kind, alternately: images a second of one reader at positions of the stream, against the
library's own shuffled loader with the same decoding on the same files; resident memory after the first and after the last image;
and the hash of the first 10,000 examples, with 1 and 2 processes and 0 and 2 workers.
"""

import argparse
import hashlib
import io
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from lightning_diff.data import Data, Datasets, LitData, Stream, WebDataset, loader

SHARD = 10_000
BATCH = 64


def picture(i: int, size: int) -> tuple[bytes, int]:
    """A circle, square or triangle of its own colours and place, as a PNG, and which it is."""
    random = np.random.default_rng(i)
    image = Image.new("RGB", (size, size), tuple(random.integers(0, 256, 3).tolist()))
    draw, colour = ImageDraw.Draw(image), tuple(random.integers(0, 256, 3).tolist())
    x, y = random.uniform(0.25, 0.75, 2) * size
    r, kind = random.uniform(0.1, 0.25) * size, i % 3
    if kind == 2:
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    else:
        (draw.ellipse if kind == 0 else draw.rectangle)((x - r, y - r, x + r, y + r), fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue(), kind


def item(chosen: tuple[int, int]) -> dict[str, object]:
    content, kind = picture(*chosen)
    return {"image": content, "label": kind}


def make(folder: Path, kind: str, images: int, size: int) -> None:
    """The files of one kind, unless they are there."""
    place = folder / kind
    if place.exists():
        return
    building = folder / f"{kind}.part"
    building.mkdir(parents=True, exist_ok=True)
    if kind == "litdata":
        import litdata

        litdata.optimize(
            item,
            [(i, size) for i in range(images)],
            str(building),
            num_workers=1,
            chunk_bytes="64MB",
            start_method="fork",
        )
    for shard, first in enumerate(range(0, images, SHARD) if kind != "litdata" else ()):
        numbers = range(first, min(first + SHARD, images))
        if kind == "tar":
            with tarfile.open(building / f"{shard:05}.tar", "w") as tar:
                for i in numbers:
                    content, label = picture(i, size)
                    for ending, part in ((".png", content), (".cls", str(label).encode())):
                        info = tarfile.TarInfo(f"{i:08}{ending}")
                        info.size = len(part)
                        tar.addfile(info, io.BytesIO(part))
        else:
            import pyarrow as pa
            from pyarrow import parquet

            contents, labels = zip(*(picture(i, size) for i in numbers), strict=True)
            table = pa.table({"image": [{"bytes": each, "path": None} for each in contents], "label": list(labels)})
            parquet.write_table(table, building / f"train-{shard:05}.parquet")
    building.rename(place)


def source(folder: Path, kind: str, workers: int = 0) -> Data:
    options = {"batch_size": BATCH, "workers": workers}
    if kind == "tar":
        return WebDataset(path=folder / kind, **options)
    return (Datasets if kind == "parquet" else LitData)(path=folder / kind, **options)


def theirs(folder: Path, kind: str) -> Iterator[torch.Tensor]:
    """Images by the library's own shuffled loader, decoded as ours are."""
    if kind == "tar":
        import webdataset

        shards = sorted(map(str, (folder / kind).glob("*.tar")))
        found = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000)
        encoded = (sample["png"] for sample in found)
    elif kind == "parquet":
        import datasets

        files = sorted(map(str, (folder / kind).glob("*.parquet")))
        found = datasets.load_dataset("parquet", data_files=files, split="train").shuffle(seed=0)
        encoded = (row["image"]["bytes"] for row in found)
    else:
        import litdata

        encoded = (row["image"] for row in litdata.StreamingDataset(str(folder / kind), shuffle=True))
    for content in encoded:
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
        yield torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1


def resident() -> float:
    """MiB of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def digest(folder: Path, kind: str, processes: int, workers: int, count: int) -> str:
    """Of (position, label, pixels) of the first examples, in order of position."""
    found = hashlib.sha256()
    readers = [iter(loader(source(folder, kind, workers), 0, rank, processes)) for rank in range(processes)]
    for _ in range(count // BATCH):
        parts = [next(reader) for reader in readers]
        batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = batch["position"].argsort()
        for name in ("position", "label", "image"):
            found.update(batch[name][order].contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--read", type=int, default=20_000)
    parser.add_argument("--kinds", nargs="+", default=["tar", "parquet", "litdata"])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for kind in chosen.kinds:
        make(chosen.folder, kind, chosen.images, chosen.size)
        start = time.process_time()
        data = source(chosen.folder, kind)
        data.setup()
        print(f"{kind}: {data.summary()}")
        print(f"  start: {time.process_time() - start:.1f} s of CPU; resident {resident():.0f} MiB")
        stream, rates, library = Stream(data, 0), [], theirs(chosen.folder, kind)
        next(library)
        part = chosen.read // 5 // BATCH
        for turn in range(5):
            start = time.process_time()
            for batch in range(part):
                stream.__getitems__(np.arange(BATCH) + BATCH * (turn * part + batch))
            ours = time.process_time() - start
            start = time.process_time()
            for _ in range(part * BATCH):
                next(library)
            rates.append((part * BATCH / ours, part * BATCH / (time.process_time() - start)))
        ours, other = (float(np.median(column)) for column in zip(*rates, strict=True))
        print(
            f"  images a second of CPU: ours {ours:,.0f}, the library's loader {other:,.0f}, ratio {ours / other:.2f}"
        )
        print(f"  resident after {chosen.read:,} images of each: {resident():.0f} MiB")
        count = min(10_000, chosen.images)
        digests = {
            f"{processes} x {workers}": digest(chosen.folder, kind, processes, workers, count)
            for processes, workers in ((1, 0), (2, 0), (1, 2), (2, 2))
        }
        print(f"  first {count // BATCH * BATCH:,} examples (processes x workers): {digests}")


if __name__ == "__main__":
    main()
