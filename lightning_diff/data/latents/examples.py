"""Examples that are latents: drawn anew at each position, from a mean and a standard deviation on the disk or by an encoder."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, Shaped
from torch import Tensor

from ...autoencoders import Autoencoder, Normalisation
from ...condition import AnyCondition, Condition, Shapes
from ...foundation import rng
from ..buckets import Buckets
from ..caption_texts import Wordings, of_data
from ..image_set import NOWHERE, Examples, Indices, Origin
from ..stream import taken

NOISE = "latent"  # purpose of the noise of an encoder's distribution
At = tuple[int, Int64[np.ndarray, " n"]]  # the run's seed, and positions in its stream
Moments = tuple[Tensor, Tensor | None]  # mean and standard deviation, not normalised


class LatentExamples:
    """Images as latents, with the labels and conditions that they have; a child says where the moments are from.

    In training, example number p is mean + std * noise, with noise a function of (seed, p), of the image or where it is mirrored of
    its mirror image: `take_at`. What reads examples by their index alone (`take`) sees the mean.

    Args:
        source: the images.
        normalisation: to latents.
        shape: of one.
        std: over all values of latents of the training images.
        content: what the latents depend on beside the images, for the fingerprint.
        sample: False takes the mean in training, too.
        flip: mirror every training image with probability 1/2, before it is encoded.
        notes: what is to be said of them.
        buckets: the shapes of latents of images in buckets; None where all have one.
    """

    mirrors = True  # itself, before the encoder: a mirrored latent is no latent of the mirrored image

    def __init__(
        self,
        source: Examples,
        normalisation: Normalisation,
        shape: Sequence[int],
        std: float,
        content: str,
        *,
        sample: bool = True,
        flip: bool = False,
        notes: Sequence[str] = (),
        buckets: Buckets | None = None,
    ):
        self.source, self.normalisation = source, normalisation
        self.name, self.shape, self.labelled = f"latents of {source.name}", tuple(shape), source.labelled
        self.num_classes = source.num_classes
        self.class_names: Sequence[str] = getattr(source, "class_names", ())
        self.names: Sequence[str] = getattr(source, "names", ())  # of the images' files
        self.condition_shapes: Shapes | None = getattr(source, "condition_shapes", None)
        self.null_condition: Condition | None = getattr(source, "null_condition", None)
        self.buckets = buckets
        self.sample, self.flip, self._std, self._content = sample, flip, std, content
        own: Origin = getattr(source, "origin", NOWHERE)
        self.origin = own._replace(notes=(*own.notes, *notes))

    def moments(
        self, indices: Indices, mirror: Bool[Tensor, " n"], at: At | None
    ) -> tuple[Moments, AnyCondition | None]:
        """Of these images, mirrored where it says so, and what they are conditioned on; `at` where training takes them."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: Indices) -> tuple[Float32[Tensor, "n c h w"], AnyCondition | None]:
        (mean, _), given = self.moments(indices, torch.zeros(len(indices), dtype=torch.bool), None)
        return self.normalisation.apply(mean), given

    def take_at(
        self, indices: Indices, seed: int, positions: Int64[np.ndarray, " n"]
    ) -> tuple[Float32[Tensor, "n c h w"], AnyCondition | None]:
        """As training sees them at these positions."""
        mirror = torch.zeros(len(positions), dtype=torch.bool)
        if self.flip:
            mirror = torch.from_numpy(rng.uniform(seed, "flip", positions) < 0.5)
        (z, std), given = self.moments(indices, mirror, (seed, positions))
        if self.sample and std is not None:
            z = z + std * rng.normal(seed, NOISE, positions, z.shape[1:])
        return self.normalisation.apply(z), given

    def images(self, indices: Indices) -> Float32[Tensor, "n c h w"]:
        """Normalised latents of the mean."""
        return self.take(indices)[0]

    def label(self, indices: Indices) -> Int64[Tensor, " n"]:
        return self.source.label(indices)

    def texts(self, key: str) -> Wordings:
        """Captions of the images, from the data; see `caption_texts.of_data`."""
        return of_data(self.source, key)

    def std(self) -> float:
        return self._std

    def fingerprint(self) -> str:
        parts = [self.source.fingerprint(), self._content, repr(self.normalisation), str(self.sample)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class InBuckets:
    """Arrays of latents of several shapes, one for each bucket, as one: of the examples, and then of their mirror images.

    Args:
        arrays: (rows, 1 or 2, c, h, w), in order of the bucket's examples; None for an empty bucket.
        buckets: of the examples.
    """

    def __init__(self, arrays: Sequence[Shaped[np.ndarray, "rows k c h w"] | None], buckets: Buckets):
        self.arrays, self.of, self.counts = arrays, buckets.of, buckets.counts
        self.places = np.empty(len(buckets.of), np.int64)  # of each example in its bucket
        for members in buckets.members:
            self.places[members] = np.arange(len(members))

    def __getitem__(self, rows: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n k c h w"]:
        """Of examples of one bucket, at least one."""
        mirrored, i = np.divmod(rows, len(self.places))
        number = int(self.of[i[0]])
        array = self.arrays[number]
        assert array is not None
        chosen: np.ndarray = array[self.places[i] + self.counts[number] * mirrored]
        return chosen


class StoredLatents(LatentExamples):
    """Moments from an array, in memory or on the disk (see `latents.cache`).

    Args:
        latents: float16 or float32 (rows, 1 or 2, c, h, w): mean and standard deviation; of mirror images after all others. Several
            such arrays of images in buckets.
        source, ...: see `LatentExamples`.
    """

    def __init__(
        self, latents: Shaped[np.ndarray, "rows k c h w"] | InBuckets, source: Examples, *args: object, **kwargs: object
    ):
        super().__init__(source, *args, **kwargs)  # type: ignore[arg-type]
        self.latents = latents

    def moments(
        self, indices: Indices, mirror: Bool[Tensor, " n"], at: At | None
    ) -> tuple[Moments, AnyCondition | None]:
        rows = torch.as_tensor(indices) + len(self.source) * mirror
        z = torch.from_numpy(np.array(self.latents[rows.numpy()])).float()
        return (z[:, 0], z[:, 1] if z.shape[1] == 2 else None), self._given(indices, at)

    def _given(self, indices: Indices, at: At | None) -> AnyCondition | None:
        """Labels without a look at the images; a condition comes with them."""
        if not self.condition_shapes:
            return self.label(indices) if self.labelled else None
        return _taken(self.source, indices, at)[1]


class LatentsNow(LatentExamples):
    """Moments by the encoder, at each call: crops and other choices that the source makes anew come before it.

    Args:
        autoencoder: that encodes.
        device: where.
        source, ...: see `LatentExamples`.
    """

    def __init__(
        self, autoencoder: Autoencoder, device: torch.device | str, source: Examples, *args: object, **kwargs: object
    ):
        super().__init__(source, *args, **kwargs)  # type: ignore[arg-type]
        self.autoencoder, self.device = autoencoder, device

    def moments(
        self, indices: Indices, mirror: Bool[Tensor, " n"], at: At | None
    ) -> tuple[Moments, AnyCondition | None]:
        images, given = _taken(self.source, indices, at)
        images[mirror] = images[mirror].flip(-1)
        mean, std = self.autoencoder.moments(images.to(self.device))
        return (mean.cpu(), None if std is None else std.cpu()), given


def _taken(source: Examples, indices: Indices, at: At | None) -> tuple[Tensor, AnyCondition | None]:
    return source.take(indices) if at is None else taken(source, np.asarray(indices), *at)
