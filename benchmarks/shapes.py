"""A made data set of simple shapes, as large as asked for: in tar shards, parquet and litdata, the same encoded bytes in each.

A circle, a square or a triangle of its own colours and place: 330 bytes as a PNG, where noise would fill the disk. Shard k is a
function of k and the size alone. Drawn in one go for many images, and encoded by zlib: 10,000 images a second of one core.
"""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SHARD = 10_000  # images
AT_ONCE = 500  # images that are drawn together
KINDS = ("tar", "parquet", "litdata")


def drawn(shard: int, count: int, size: int) -> Iterator[tuple[bytes, int]]:
    """The first `count` images of a shard as PNG, and the class of each: 0 a circle, 1 a square, 2 a triangle."""
    random = np.random.default_rng([shard, size])
    line = np.arange(size, dtype=np.float32)
    for _ in range(0, SHARD, AT_ONCE):
        colours = random.integers(0, 256, (AT_ONCE, 2, 3), np.uint8)
        x, y = (random.uniform(0.25, 0.75, (2, AT_ONCE)) * size).astype(np.float32)
        r = (random.uniform(0.1, 0.25, AT_ONCE) * size).astype(np.float32)[:, None, None]
        kind = random.integers(0, 3, AT_ONCE)
        across = np.abs(line - x[:, None])[:, None, :]  # (AT_ONCE, 1, size)
        down = (line - y[:, None])[:, :, None]  # (AT_ONCE, size, 1)
        inside = np.select(
            [kind[:, None, None] == 0, kind[:, None, None] == 1],
            [across**2 + down**2 <= r**2, np.maximum(across, np.abs(down)) <= r],
            (down <= r) & (2 * across <= down + r),
        )
        pixels = np.where(inside[..., None], colours[:, None, None, 0], colours[:, None, None, 1])
        for image, label in zip(pixels[:count], kind[:count].tolist(), strict=True):
            yield png(image), label
        count -= len(pixels[:count])
        if count <= 0:
            return


def png(image: np.ndarray) -> bytes:
    """(H, W, 3) bytes as a PNG whose rows are differences to the row above, which zeros mostly are."""
    height, width, _ = image.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 2  # the filter "up"
    flat = image.reshape(height, -1)
    rows[0, 1:] = flat[0]
    rows[1:, 1:] = flat[1:] - flat[:-1]  # modulo 256
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    chunks = [struct.pack(">I", len(part)) + name + part + _crc(name + part) for name, part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _crc(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def make(folder: Path, kind: str, images: int, size: int) -> Path:
    """The files of one kind, in a folder below this one, unless they are there."""
    place = folder / f"{kind}-{images}-{size}"
    if place.exists():
        return place
    building = place.with_suffix(".part")
    building.mkdir(parents=True, exist_ok=True)
    shards = [(i, min(SHARD, images - first), size) for i, first in enumerate(range(0, images, SHARD))]
    if kind == "litdata":
        _write_litdata(building, shards)
    else:
        for shard in shards:
            (_write_tar if kind == "tar" else _write_parquet)(building, *shard)
    building.rename(place)
    return place


def _write_tar(folder: Path, shard: int, count: int, size: int) -> None:
    with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
        for i, (content, label) in enumerate(drawn(shard, count, size)):
            for ending, part in ((".png", content), (".cls", str(label).encode())):
                info = tarfile.TarInfo(f"{shard * SHARD + i:08}{ending}")
                info.size = len(part)
                tar.addfile(info, io.BytesIO(part))


def _write_parquet(folder: Path, shard: int, count: int, size: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    contents, labels = zip(*drawn(shard, count, size), strict=True)
    table = pa.table({"image": [{"bytes": each, "path": None} for each in contents], "label": list(labels)})
    parquet.write_table(table, folder / f"train-{shard:05}.parquet")


def _items(shard: tuple[int, int, int]) -> Iterator[dict[str, object]]:
    for content, label in drawn(*shard):
        yield {"image": content, "label": label}


def _write_litdata(folder: Path, shards: list[tuple[int, int, int]]) -> None:
    import litdata

    litdata.optimize(_items, shards, str(folder), num_workers=1, chunk_size=SHARD, start_method="fork", verbose=False)
