"""Latents on the disk: mean and standard deviation of every image of a source, made once, mapped into memory ever after.

A folder for each source and encoder below `latents/` in the cache (`foundation.caches`): train.npy and test.npy, float16
(images, or images and then their mirror images; mean, and where there is one standard deviation; c; h; w), not normalised, and
record.json, which says of what and with what normalisation they were made. Every folder is whole or not there: until it is whole it
is a partial one, which several processes fill together and a later start goes on with (`foundation.shared_work`).
"""

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16
from torch import Tensor

from ...artifacts import record
from ...autoencoders import Autoencoder
from ...foundation import caches, row_files, shared_work, stopping
from ...foundation.errors import UserError
from ...foundation.progress import stage
from ...foundation.row_files import Block, Table
from ...foundation.shared_work import Work
from ..image_set import Examples
from ..source import Data
from .moments import ChannelMoments
from .record import DECISIVE, FORMAT, RECORD, LatentsRecord, nearest, wanted

MOST = 65_504.0  # of float16
GIB = 2**30
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Encoded:
    """A folder of latents, mapped.

    Args:
        folder: where they are.
        record: what they are.
        parts: of the training images, and of the held-out ones where there are some.
        notes: what is to be said of them.
    """

    folder: Path
    record: LatentsRecord
    parts: tuple[Float16[np.ndarray, "n k c h w"], ...]
    notes: tuple[str, ...] = ()


def encoded(
    sets: Sequence[Examples],
    source: Data,
    autoencoder: Autoencoder,
    *,
    mirrored: bool,
    device: torch.device | str,
    batch: int,
    max_gib: int | float,
) -> Encoded:
    """The latents of these images from the cache, or encoded into it by this process and those that do the same.

    Args:
        sets: training images, and held-out ones where there are some.
        source: that they are of.
        autoencoder: that encodes.
        mirrored: whether to encode mirror images of the training set, too.
        device: where.
        batch: images at a time.
        max_gib: largest size of the folder, GiB.

    Raises:
        UserError: more than max_gib, or than the disk has room for; images that it does not take, latents beyond float16.
    """
    of = wanted(sets, source, autoencoder, mirrored=mirrored)
    place, remark = caches.folder()
    folder = place / "latents" / f"{of.key}.latents"
    found, why = _read(folder, of)
    if found is None:
        _encode(folder, of, sets, autoencoder, device=device, batch=batch, max_gib=max_gib)
        found, why = _read(folder, of)
        if found is None:
            raise UserError(f"{folder}: {why or 'is gone'}, and was just written; is the disk in order?")
    notes = [remark] if remark else []
    if found.record.normalisation != of.normalisation:
        notes.append(f"encoded for {found.record.normalisation}, read with {of.normalisation}")
    return Encoded(folder, found.record, found.parts, tuple(notes))


def _tables(of: LatentsRecord, kinds: int, block: int) -> list[Table]:
    """The files as `numpy.load` reads them."""
    tables = []
    for split, rows in zip(SPLITS, of.rows, strict=False):
        head, shape = io.BytesIO(), (rows, kinds, *of.latent_shape)
        np.lib.format.write_array_header_1_0(
            head, {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
        )
        tables.append(Table(f"{split}.npy", head.getvalue(), (2 * int(np.prod(shape[1:])),), rows, block))
    return tables


def _read(folder: Path, of: LatentsRecord) -> tuple[Encoded | None, str]:
    """The folder's latents, or None and what is wrong with them: nothing, where there are none."""
    if not folder.exists():
        return None, ""
    try:
        found = record.read(folder / RECORD, LatentsRecord, FORMAT, "record of latents")
        if other := [name for name in DECISIVE if getattr(found, name) != getattr(of, name)]:
            return None, f"its record is of another {other[0]}"
        parts = []
        for split, count in zip(SPLITS, of.rows, strict=False):
            part = np.load(folder / f"{split}.npy", mmap_mode="r")
            if part.dtype != np.float16 or part.shape[2:] != tuple(of.latent_shape):
                return None, f"{split}.npy has another shape"
            if len(part) != count:
                return None, f"{split}.npy has {len(part):,} rows"
            parts.append(part)
        tables = _tables(of, parts[0].shape[1], found.block or 1)
        if why := row_files.damage(folder, tables, found.checks):
            return None, why
    except (UserError, OSError, ValueError, EOFError) as error:
        return None, f"cannot be read ({' '.join(str(error).split())[:200]})"
    return Encoded(folder, found, tuple(parts)), ""


def _encode(
    folder: Path,
    of: LatentsRecord,
    sets: Sequence[Examples],
    autoencoder: Autoencoder,
    *,
    device: torch.device | str,
    batch: int,
    max_gib: int | float,
) -> None:
    kinds = 1 if autoencoder.moments(sets[0].images(np.arange(1)).to(device))[1] is None else 2
    tables = _tables(of, kinds, batch)
    size = sum(table.size for table in tables)
    _refuse_large(folder, size, max_gib)
    try:
        with Work(folder, tables, of.key, lambda: _is_whole(folder, of)) as work:
            if work.is_needed:
                _say(work, f"{autoencoder.name}: {in_units(size)} of latents in {folder}", nearest(folder.parent, of))
                _fill(work, sets, _encoder(autoencoder, sets, device, batch, kinds))
                work.publish(lambda made: _finish(made, of, work))
    except OSError as error:
        raise UserError(
            f"{folder}: latents cannot be written ({error.strerror or error}), {in_units(size)} are needed, and what is there is "
            f"kept; make room, set {caches.OWN} to a folder with room, or data.encode=fly"
        ) from error


def _is_whole(folder: Path, of: LatentsRecord) -> bool:
    """Says what is wrong with a folder that is not."""
    found, why = _read(folder, of)
    if why:
        print(f"{folder}: {why}; encoding again", flush=True)
    return found is not None


def _say(work: Work, what: str, remark: str) -> None:
    """Before anything is encoded, by one process for all."""
    if not work.speaks:
        return
    if done := work.rows_done:
        print(f"encoding {work.rows:,} images with {what}: going on, {done:,} are there", flush=True)
        return
    print(*([remark] if remark else []), f"encoding {work.rows:,} images with {what}", sep="\n", flush=True)


Encode = Callable[[Block], tuple[Float16[np.ndarray, "n k c h w"], ChannelMoments]]


def _fill(work: Work, sets: Sequence[Examples], encode: Encode) -> None:
    """Every block, by this process or another one, and how far they all are."""
    with stage("encoding", work.rows, "image", shown=work.speaks, lines=True, start=work.rows_done) as bar:
        for block in work.missing():
            latents, moments = encode(block)
            work.put(block, [latents.tobytes()], moments.state())
            bar.reach(work.rows_done)
        bar.reach(work.rows)


def _encoder(
    autoencoder: Autoencoder, sets: Sequence[Examples], device: torch.device | str, batch: int, kinds: int
) -> Encode:
    """Latents of the rows of a block, and their moments."""

    def encode(block: Block) -> tuple[Float16[np.ndarray, "n k c h w"], ChannelMoments]:
        examples, parts, moments = sets[block.table], [], None
        for start in range(block.first, block.first + block.rows, batch):
            stopping.check()
            numbers = np.arange(start, min(start + batch, block.first + block.rows))
            images = examples.images(numbers % len(examples))
            mirror = torch.from_numpy(numbers >= len(examples))
            images[mirror] = images[mirror].flip(-1)
            mean, std = (None if x is None else x.cpu() for x in autoencoder.moments(images.to(device)))
            assert mean is not None
            moments = moments or ChannelMoments(mean.shape[1])
            moments.update(mean, std)
            parts.append(_halves(mean if std is None else torch.stack([mean, std], 1), kinds, autoencoder))
        assert moments is not None
        return np.concatenate(parts), moments

    return encode


def _finish(made: Path, of: LatentsRecord, work: Work) -> None:
    """Write the record of whole files, with the moments of training's."""
    moments = ChannelMoments(of.latent_shape[0])
    for state in work.notes(0):
        moments.merge(state)
    found = {"mean": moments.mean, "variance": moments.variance, "block": work.tables[0].block, "checks": work.checks()}
    record.write(made / RECORD, asdict(of) | found, FORMAT)


def _halves(values: Tensor, kinds: int, autoencoder: Autoencoder) -> Float16[np.ndarray, "n k c h w"]:
    values = values.unsqueeze(1) if kinds == 1 else values
    if not bool((values.abs() <= MOST).all()):  # NaN is neither more nor less
        raise UserError(
            f"{autoencoder.name}: gives latents that are no numbers, or beyond {MOST:,.0f}, for images in [-1, 1]; some "
            "autoencoders overflow in float16: set dtype to float32"
        )
    halves: np.ndarray = values.half().numpy()
    return halves


def _refuse_large(folder: Path, size: int, max_gib: int | float) -> None:
    if size > max_gib * GIB:
        raise UserError(
            f"data.max_gib: the latents would take {in_units(size)}, more than {max_gib:g} GiB; raise it, or set data.encode=fly"
        )
    there = next(path for path in folder.absolute().parents if path.exists())
    if (left := shared_work.bytes_left(folder, size)) > (free := shutil.disk_usage(there).free):
        raise UserError(
            f"{folder}: the latents would take {in_units(left)}, and {in_units(free)} are free; set {caches.OWN} to a folder "
            "with room, or data.encode=fly"
        )


def in_units(size: int) -> str:
    """Bytes, as a person reads them."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1024:.1f} KiB"
