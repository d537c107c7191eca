"""record.json beside stored latents: of which images, by which encoder and with what settings, and what other ones differ in."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ...artifacts import record
from ...autoencoders import Autoencoder
from ...foundation.errors import UserError
from ..image_set import Examples
from ..source import Data

FORMAT = 1  # of the folder
RECORD = "record.json"
DECISIVE = ("source", "encoder", "image_shape", "latent_shape", "counts", "mirrored")
Settings = dict[str, str]  # by the key of a recipe


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
        settings: of source and autoencoder, in words: what is told where only some of them are others.
        block: rows that were written at a time; 0 in files of before.
        checks: crc32 of each block, those of training first; none in files of before.
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
    settings: Settings = field(default_factory=dict)
    block: int = 0
    checks: list[int] = field(default_factory=list)

    @property
    def rows(self) -> list[int]:
        """Of the file of each split: training sees mirror images, and nobody else does."""
        train, *test = self.counts
        return [train * (1 + self.mirrored), *test]

    @property
    def key(self) -> str:
        """What the stored values depend on, in hexadecimal digits: the folder's name."""
        key = (FORMAT, *(asdict(self)[name] for name in DECISIVE))
        return hashlib.sha256(repr(key).encode()).hexdigest()[:16]


def wanted(sets: Sequence[Examples], source: Data, autoencoder: Autoencoder, *, mirrored: bool) -> LatentsRecord:
    """The record that a folder must have; mean, variance and checks are found when it is made.

    Args:
        sets: training images, and held-out ones where there are some.
        source: that they are of.
        autoencoder: that encodes.
        mirrored: whether mirror images of the training set are encoded, too.
    """
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
        settings={**_of_source(source), **_of_encoder(autoencoder), "flip": str(mirrored)},
    )


def _of_source(source: Data) -> Settings:
    """How images become examples: what a source is told beside how training draws from it."""
    drawing = {each.name for each in fields(Data)} | {*type(source).RESUME_MAY_CHANGE} - {"path"}
    told = {each.name: getattr(source, each.name) for each in fields(source) if each.name not in drawing}
    plain = {
        name: str(value) for name, value in told.items() if isinstance(value, str | int | float | tuple | Path | None)
    }
    return {"source": type(source).__name__, **{f"source.{name}": value for name, value in plain.items()}}


def _of_encoder(autoencoder: Autoencoder) -> Settings:
    """By `settings()`, which an autoencoder of the user's may not have."""
    told: Mapping[str, object] = getattr(autoencoder, "settings", dict)()
    return {f"autoencoder.{name}": str(value) for name, value in told.items()}


def nearest(place: Path, new: LatentsRecord) -> str:
    """What is to be said of latents of the same images that are there already, and differ; nothing where there are none.

    Of several those that differ in least. The same images are those of the same pixels, or from the same place by the same encoder.

    Args:
        place: the folder of all latents.
        new: what is to be made.
    """
    alike = [
        (different, folder)
        for folder, old in _records(place)
        if old.source == new.source or (old.encoder == new.encoder and _place(old) == _place(new) != "")
        if (different := differences(old, new))
    ]
    if not alike:
        return ""
    different, folder = min(alike, key=lambda each: (len(each[0]), each[1]))
    return f"{folder} does not do: {', '.join(different)}"


def differences(old: LatentsRecord, new: LatentsRecord) -> list[str]:
    """In words, what of one is not what it is in the other: `autoencoder.dtype was float32 and is bfloat16`."""
    told = [
        f"{name} was {old.settings[name]} and is {new.settings[name]}"
        for name in sorted(old.settings.keys() & new.settings.keys())
        if old.settings[name] != new.settings[name]
    ]
    if told:
        return told
    words = {"source": "the images", "encoder": "the autoencoder's weights"}
    return [f"{words.get(name, name)} differ" for name in DECISIVE if getattr(old, name) != getattr(new, name)][:1]


def _place(of: LatentsRecord) -> str:
    return of.settings.get("source.path", "")


def _records(place: Path) -> Iterator[tuple[Path, LatentsRecord]]:
    for file in sorted(place.glob(f"*.latents/{RECORD}")):
        try:
            yield file.parent, record.read(file, LatentsRecord, FORMAT, "record of latents")
        except UserError:
            continue
