"""Latents on the disk: mean and standard deviation of every image of a source, made once, mapped into memory ever after.

A folder for each source and encoder below `latents/` in the cache (`foundation.caches`): train.npy and test.npy, float16
(images, or images and then their mirror images; mean, and where there is one standard deviation; c; h; w), not normalised, and
record.json, which says of what and with what normalisation they were made. Every folder is whole or not there.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16
from torch import Tensor

from ...artifacts import record
from ...autoencoders import Autoencoder
from ...foundation import caches, stopping
from ...foundation.atomic import replacing_folder
from ...foundation.errors import UserError
from ...foundation.processes import is_first_process
from ...foundation.progress import stage
from ..image_set import Examples
from .moments import ChannelMoments

FORMAT = 1  # of the folder
RECORD = "record.json"
MOST = 65_504.0  # of float16
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class LatentsRecord:
    """What the latents of a folder are.

    Args:
        source: fingerprints of the images, training and held out.
        encoder: fingerprint of the autoencoder.
        name: of the autoencoder, in words.
        normalisation: that it was used with, in words; the latents themselves are not normalised.
        image_shape: of one image.
        latent_shape: of its latents.
        counts: of the images, training and held out.
        mirrored: whether the training images' mirror images are there, too.
        mean, variance: of the training images' latents, by channel.
    """

    source: list[str]
    encoder: str
    name: str
    normalisation: str
    image_shape: list[int]
    latent_shape: list[int]
    counts: list[int]
    mirrored: bool
    mean: list[float]
    variance: list[float]


@dataclass(frozen=True)
class Encoded:
    """A folder of latents, mapped.

    Args:
        record: what they are.
        parts: of the training images, and of the held-out ones where there are some.
        notes: what is to be said of them.
    """

    record: LatentsRecord
    parts: tuple[Float16[np.ndarray, "n k c h w"], ...]
    notes: tuple[str, ...] = ()


def encoded(
    sets: list[Examples],
    autoencoder: Autoencoder,
    *,
    mirrored: bool,
    device: torch.device | str,
    batch: int,
    max_gib: int | float,
) -> Encoded:
    """The latents of these images from the cache, or encoded into it; of several processes one encodes.

    Args:
        sets: training images, and held-out ones where there are some.
        autoencoder: that encodes.
        mirrored: whether to encode mirror images of the training set, too.
        device: where.
        batch: images at a time.
        max_gib: largest size of the folder, GiB.

    Raises:
        UserError: more than max_gib, or than the disk has room for; images that it does not take, latents beyond float16.
    """
    wanted = _wanted(sets, autoencoder, mirrored)
    place, remark = caches.folder()
    folder = place / "latents" / _name(wanted)
    with _alone(folder):
        found, why = _read(folder, wanted)
        if found is None:
            _say(f"{folder}: {why}; encoding again" if why else "")
            _encode(folder, wanted, sets, autoencoder, device=device, batch=batch, max_gib=max_gib)
            found, why = _read(folder, wanted)
            if found is None:
                raise UserError(f"{folder}: {why}, and was just written; is the disk in order?")
    notes = [remark] if remark else []
    if found.record.normalisation != wanted.normalisation:
        notes.append(f"encoded for {found.record.normalisation}, read with {wanted.normalisation}")
    return Encoded(found.record, found.parts, tuple(notes))


def _wanted(sets: list[Examples], autoencoder: Autoencoder, mirrored: bool) -> LatentsRecord:
    """The record that a folder must have; mean and variance are found when it is made."""
    shape = sets[0].shape
    return LatentsRecord(
        source=[each.fingerprint() for each in sets],
        encoder=autoencoder.fingerprint(),
        name=autoencoder.name,
        normalisation=str(autoencoder.normalisation),
        image_shape=list(shape),
        latent_shape=list(autoencoder.latent_shape(shape)),
        counts=[len(each) for each in sets],
        mirrored=mirrored,
        mean=[],
        variance=[],
    )


DECISIVE = ("source", "encoder", "image_shape", "latent_shape", "counts", "mirrored")


def _name(wanted: LatentsRecord) -> str:
    key = (FORMAT, *(asdict(wanted)[name] for name in DECISIVE))
    return f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.latents"


def _files(folder: Path, wanted: LatentsRecord) -> list[Path]:
    return [folder / f"{split}.npy" for split in ("train", "test")[: len(wanted.counts)]]


def _rows(wanted: LatentsRecord) -> list[int]:
    """Of each file: training sees mirror images, and nobody else does."""
    train, *test = wanted.counts
    return [train * (1 + wanted.mirrored), *test]


def _read(folder: Path, wanted: LatentsRecord) -> tuple[Encoded | None, str]:
    """The folder's latents, or None and what is wrong with them: nothing, where there are none."""
    if not folder.exists():
        return None, ""
    try:
        found = record.read(folder / RECORD, LatentsRecord, FORMAT, "record of latents")
        if other := [name for name in DECISIVE if getattr(found, name) != getattr(wanted, name)]:
            return None, f"its record is of another {other[0]}"
        parts = []
        for file, count in zip(_files(folder, wanted), _rows(wanted), strict=True):
            part = np.load(file, mmap_mode="r")
            if part.dtype != np.float16 or part.shape[2:] != tuple(wanted.latent_shape):
                return None, f"{file.name} has another shape"
            if len(part) != count:
                return None, f"{file.name} has {len(part):,} rows"
            parts.append(part)
    except (UserError, OSError, ValueError, EOFError) as error:
        return None, f"cannot be read ({' '.join(str(error).split())[:200]})"
    return Encoded(found, tuple(parts)), ""


def _encode(
    folder: Path,
    wanted: LatentsRecord,
    sets: list[Examples],
    autoencoder: Autoencoder,
    *,
    device: torch.device | str,
    batch: int,
    max_gib: int | float,
) -> None:
    kinds = 1 if autoencoder.moments(sets[0].images(np.arange(1)).to(device))[1] is None else 2
    rows = _rows(wanted)
    size = 2 * kinds * sum(rows) * int(np.prod(wanted.latent_shape))
    _refuse_large(folder, size, max_gib)
    _say(f"encoding {sum(rows):,} images with {autoencoder.name}: {_in_units(size)} of latents in {folder}")
    try:
        with (
            replacing_folder(folder) as temporary,
            stage("encoding", sum(rows), "image", shown=is_first_process(), lines=True) as bar,
        ):
            moments = ChannelMoments(wanted.latent_shape[0])
            for file, examples, count in zip(_files(temporary, wanted), sets, rows, strict=True):
                into = np.lib.format.open_memmap(file, "w+", np.float16, (count, kinds, *wanted.latent_shape))
                for start in range(0, count, batch):
                    stopping.check("batch")
                    numbers = np.arange(start, min(start + batch, count))
                    images = examples.images(numbers % len(examples))
                    mirror = torch.from_numpy(numbers >= len(examples))
                    images[mirror] = images[mirror].flip(-1)
                    mean, std = (None if x is None else x.cpu() for x in autoencoder.moments(images.to(device)))
                    assert mean is not None
                    into[numbers] = _halves(mean if std is None else torch.stack([mean, std], 1), kinds, autoencoder)
                    if examples is sets[0]:
                        moments.update(mean, std)
                    bar.advance(len(numbers))
                into.flush()
                del into
            made = asdict(wanted) | {"mean": moments.mean, "variance": moments.variance}
            record.write(temporary / RECORD, made, FORMAT)
    except OSError as error:
        raise UserError(
            f"{folder}: latents cannot be written ({error.strerror or error}), {_in_units(size)} are needed; set {caches.OWN} to a "
            "folder with room, or data.encode=fly"
        ) from error


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
            f"data.max_gib: the latents would take {_in_units(size)}, more than {max_gib:g} GiB; raise it, or set data.encode=fly"
        )
    there = next(path for path in folder.absolute().parents if path.exists())
    if size > (free := shutil.disk_usage(there).free):
        raise UserError(
            f"{folder}: the latents would take {_in_units(size)}, and {_in_units(free)} are free; set {caches.OWN} to a folder "
            "with room, or data.encode=fly"
        )


def _in_units(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1024:.1f} KiB"


def _say(line: str) -> None:
    if line and is_first_process():
        print(line, flush=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the system lets go of what a killed one held."""
    try:
        import fcntl
    except ImportError:  # Windows: each makes its own, and the last one stays
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
