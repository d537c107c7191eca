"""Latents of any source of images, from a cache or encoded as they are needed."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float16

from ...autoencoders import Autoencoder
from ...condition import Condition, Prompts
from ...foundation import devices, rng
from ...foundation.errors import UserError
from .. import class_names
from ..buckets import Buckets, of_one_shape
from ..image_set import Examples
from ..part import of_bucket
from ..source import Data
from . import cache
from .examples import InBuckets, LatentExamples, LatentsNow, StoredLatents
from .moments import ChannelMoments, pooled

MEASURED = 256  # images, for the standard deviation of what is encoded on the fly
FAR = 1.25  # a standard deviation so many times larger or smaller than expected is remarked on

Array: TypeAlias = Float16[np.ndarray, "rows k c h w"]
Cached: TypeAlias = tuple[Sequence[Array | InBuckets], float, tuple[str, ...]]  # latents, standard deviation, remarks


@dataclass(eq=False, kw_only=True)
class Latents(Data):
    """Images as an autoencoder encodes them: what a latent diffusion model is trained on.

    From a cache (`latents.cache`), which `data encode` or the first start makes, or encoded at each step. Either way the noise of
    the encoder's distribution is drawn by (seed, position), so that a resumed run sees what an uninterrupted one does. Pictures,
    rewards and figures see decoded samples, and the source's own images are what figures are measured against.

    Args:
        source: the images. Its batch_size, flip and workers count for nothing; flip here is of the images, before they are encoded.
        autoencoder: that encodes them, and decodes samples.
        encode: "cache" encodes all images once; "fly" encodes what each step needs, with whatever the source chooses anew each time
            (crops), and keeps nothing.
        sample: draw from the encoder's distribution; False takes its mean.
        device: where images are encoded; auto takes a GPU if there is one, of several each process its own. With `workers` and fly
            it is the CPU.
        encode_batch: images at a time.
        max_gib: largest size of the cache, GiB.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("device", "encode_batch", "max_gib")

    source: Data
    autoencoder: Autoencoder = field()  # type: ignore[misc]  # of the class it is None
    encode: Literal["cache", "fly"] = "cache"
    sample: bool = True
    device: str = "auto"
    encode_batch: int = 64
    max_gib: int | float = 200.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encode_batch < 1:
            raise ValueError(f"Latents: encode_batch must be at least 1, got {self.encode_batch}")
        if self.augment is not None or self.source.augment is not None:
            raise ValueError(
                "Latents: augment is for images that a network sees itself; leave it out, or crop in the source"
            )
        if self.source.flip:
            raise ValueError(
                "Latents: source.flip: set flip of the Latents instead: it mirrors images before they are encoded"
            )
        self.folder: Path | None = None  # of the cache, once it is there
        self.source.conditional = self.conditional
        self.text = self.source.text  # type: ignore[misc]

    @property
    def pictured(self) -> Data:
        return self.source.pictured

    @property
    def prompts(self) -> Prompts | None:
        return self.source.prompts

    @property
    def null_condition(self) -> Condition | None:
        return self.source.null_condition

    @property
    def class_names(self) -> tuple[str, ...]:
        return class_names.complete(self.source.class_names, self.num_classes)

    def load(self) -> tuple[Examples, Examples | None]:
        sets = [each for each in (self.source.train, self.source.test) if each is not None]
        shape = self.autoencoder.latent_shape(self.source.shape)
        made = self._stored(sets, shape) if self.encode == "cache" else self._encoded_now(sets, shape)
        return made[0], made[1] if len(made) > 1 else None

    def _stored(self, sets: list[Examples], shape: tuple[int, ...]) -> list[LatentExamples]:
        cached = self._cached if latent_buckets(sets[0], self.autoencoder) is None else self._cached_by_bucket
        parts, std, notes = cached(sets)
        notes = (*notes, *remark(std, 1.0, self.autoencoder.name, rescalable=True))
        return [
            StoredLatents(
                part, examples, self.autoencoder.normalisation, shape, std, self._content,
                sample=self.sample, flip=self.flip and examples is sets[0], notes=notes,
                buckets=latent_buckets(examples, self.autoencoder),
            )
            for part, examples in zip(parts, sets, strict=True)
        ]  # fmt: skip

    def _cached(self, sets: list[Examples]) -> Cached:
        found = self._from_cache(sets, self.max_gib, mirrored=self.flip)
        std = self.autoencoder.normalisation.std(found.record.mean, found.record.variance)
        return found.parts, std, found.notes

    def _cached_by_bucket(self, sets: list[Examples]) -> Cached:
        """A folder of the cache for each bucket, whose latents are of one shape."""
        buckets: list[Buckets] = [each.buckets for each in sets]  # type: ignore[attr-defined]
        arrays: list[list[Array | None]] = [[] for _ in sets]
        trained: list[tuple[cache.LatentsRecord, int]] = []  # records, and values of a channel
        left, notes = float(self.max_gib), dict[str, None]()
        for number in range(len(buckets[0].shapes)):
            filled = [bool(each.counts[number]) for each in buckets]
            here: list[Examples] = [
                of_bucket(each, number) for each, is_filled in zip(sets, filled, strict=True) if is_filled
            ]
            parts: Iterator[Array] = iter(())
            if here:
                found = self._from_cache(here, left, mirrored=self.flip and filled[0])
                left -= sum(part.nbytes for part in found.parts) / cache.GIB
                parts = iter(found.parts)
                notes |= dict.fromkeys(found.notes)
                if filled[0]:
                    trained.append((found.record, len(here[0]) * math.prod(found.record.latent_shape[1:])))
            for array, is_filled in zip(arrays, filled, strict=True):
                array.append(next(parts) if is_filled else None)
        assert self.folder is not None
        self.folder = self.folder.parent  # of every bucket's
        records, values = zip(*trained, strict=True)
        moments = pooled([record.mean for record in records], [record.variance for record in records], values)
        std = self.autoencoder.normalisation.std(*moments)
        return [InBuckets(each, of) for each, of in zip(arrays, buckets, strict=True)], std, tuple(notes)

    def _from_cache(self, sets: list[Examples], max_gib: int | float, *, mirrored: bool) -> cache.Encoded:
        found = cache.encoded(
            sets,
            self.source,
            self.autoencoder,
            mirrored=mirrored,
            device=self._device,
            batch=self.encode_batch,
            max_gib=max_gib,
        )
        self.folder = found.folder
        return found

    def _encoded_now(self, sets: list[Examples], shape: tuple[int, ...]) -> list[LatentExamples]:
        # A worker is forked, and cannot use what the training process has on a GPU.
        encoder, device = (copy.deepcopy(self.autoencoder), "cpu") if self.workers else (self.autoencoder, self._device)
        std = self._measured_std(sets[0], shape[0])
        notes = remark(std, 1.0, self.autoencoder.name, rescalable=True)
        return [
            LatentsNow(
                encoder, device, examples, self.autoencoder.normalisation, shape, std, self._content,
                sample=self.sample, flip=self.flip, notes=notes, buckets=latent_buckets(examples, self.autoencoder),
            )
            for examples in sets
        ]  # fmt: skip

    def _measured_std(self, train: Examples, channels: int) -> float:
        """Of some images, always the same, to three digits: encoders round otherwise on other devices."""
        moments = ChannelMoments(channels)
        chosen = rng.permutation(0, "latents", 0, len(train))[:MEASURED]
        for places in of_one_shape(train, chosen, self.encode_batch):
            mean, std = self.autoencoder.moments(train.images(chosen[places]).to(self._device))
            moments.update(mean.cpu(), None if std is None else std.cpu())
        return float(f"{self.autoencoder.normalisation.std(moments.mean, moments.variance):.3g}")

    @property
    def _device(self) -> torch.device:
        name = devices.own() if self.device == "auto" else self.device
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"data.device: {name} cannot be used: {str(error).splitlines()[0]}") from error

    @cached_property
    def _content(self) -> str:
        return f"{self.autoencoder.fingerprint()} {self.encode}"

    def summary(self) -> str:
        how = "cached" if self.encode == "cache" else "encoded at each step"
        return f"{super().summary()}; {how} by {self.autoencoder.name}, standard deviation {self.sigma_data:.4g}"


def latent_buckets(examples: Examples, autoencoder: Autoencoder) -> Buckets | None:
    """Of the latents of images in buckets; None where all have one shape. UserError for a shape that cannot be encoded."""
    buckets: Buckets | None = getattr(examples, "buckets", None)
    if buckets is None:
        return None
    return Buckets(tuple(tuple(autoencoder.latent_shape(shape)) for shape in buckets.shapes), buckets.of, buckets.sizes)


def remark(std: float, expected: float, name: str, *, rescalable: bool) -> tuple[str, ...]:
    """What to say of latents whose standard deviation is far from the one that recipes are made for; nothing otherwise.

    Args:
        std: measured.
        expected: by recipes.
        name: of the autoencoder.
        rescalable: whether a scale is at hand that would give it.
    """
    if expected / FAR <= std <= expected * FAR or std <= 0:
        return ()
    scale = f"; autoencoder.scale times {expected / std:.4g} would give that" if rescalable else ""
    return (f"warning: latents of {name} have standard deviation {std:.4g}, {expected:g} was expected{scale}",)
