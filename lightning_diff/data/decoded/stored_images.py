"""Images that lie on a disk: decoded once, whoever reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from jaxtyping import Int64
from torch import Tensor

from ..bucketed import Bucketed
from ..buckets import Bucketing, Size, sizes_around
from ..crops import Crops
from ..decode import Decoded
from ..image_set import ImageSet, Origin
from ..image_source import ImageSource
from ..resize import Framing
from ..source import Data
from .cache import Cache, DecodedCache
from .entry import Sets
from .mapped import tensor_of
from .stores import MakeStore, Ragged


@dataclass(eq=False, kw_only=True)
class StoredImages(ImageSource):
    """A source whose files are decoded into memory, or once for all into a file of the cache folder; a subclass says how.

    Args:
        cache: "auto" keeps decoded images in the cache folder, from where every process and every later start maps them, if they
            are of 16 MiB or more; "always" smaller ones, too; "never" reads the files at every start.
        buckets: several sizes instead of one: each image comes to that whose aspect ratio is nearest to its own, and a batch is of
            one. An odd number of them, of about the area of `size`, or their list, [[height, width], ...], with `size` among them,
            which is what samples and figures have; None for `size` alone.
        bucket_step: sides of a number of buckets are multiples of it, in pixels.
        bucket_ratio: of a number of buckets, the widest is so many times wider than `size` over its height, > 1.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("cache",)  # the images are the same

    path: str | Path
    cache: Cache = "auto"
    buckets: int | Sequence[Sequence[int]] | None = None
    bucket_step: int = 8
    bucket_ratio: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bucket_step < 1:
            raise ValueError(f"{self.name}: bucket_step must be at least 1, got {self.bucket_step}")
        if not self.bucket_ratio > 1:
            raise ValueError(f"{self.name}: bucket_ratio must be above 1, got {self.bucket_ratio}")
        _ = self.sizes  # which refuses what cannot be

    def load(self) -> Sets:
        # How examples are drawn changes nothing about them.
        drawing = {field.name for field in fields(Data)} | {"cache", "buckets", "bucket_step", "bucket_ratio"}
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in drawing}
        key = f"{type(self).__qualname__} {sorted((name, repr(value)) for name, value in options.items())}"
        if self.sizes:
            key += f" {self.sizes}"
        return DecodedCache(self.name, key, self.files(), self.cache).load(self.decoded)

    @property
    def pictured(self) -> Data:
        """What figures are measured against: where images lie in buckets, all of them in `size`."""
        return self if self.buckets is None else self._in_one_size

    @cached_property
    def _in_one_size(self) -> "StoredImages":
        return replace(self, buckets=None)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Heights and widths of the buckets; () where there are none.

        Raises:
            ValueError: buckets that cannot be, or do not go with the other options.
        """
        if self.buckets is None:
            return ()
        if self.size is None or self.resize in ("none", "random_crop"):
            raise ValueError(
                f"{self.name}: buckets need size, and resize centre_crop, pad or stretch, got size={self.size}, "
                f"resize={self.resize}"
            )
        height, width = (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[-1])
        if not isinstance(self.buckets, int):
            return self._listed(self.buckets, (height, width))
        if self.buckets < 3 or self.buckets % 2 == 0:
            raise ValueError(
                f"{self.name}: buckets must be an odd number from 3 on, with size in the middle, or a list of sizes, "
                f"got {self.buckets}"
            )
        if height % self.bucket_step or width % self.bucket_step:
            raise ValueError(
                f"{self.name}: size {self.size} is no multiple of bucket_step {self.bucket_step}; set bucket_step to what the "
                "network and the autoencoder divide sides by"
            )
        try:
            return sizes_around(height, width, self.buckets, self.bucket_step, self.bucket_ratio)
        except ValueError as error:
            raise ValueError(f"{self.name}: buckets: {error}") from None

    def _listed(self, buckets: Sequence[Sequence[int]], size: Size) -> tuple[Size, ...]:
        wrong = [list(each) for each in buckets if len(each) != 2 or min(each) < 1]
        if wrong:
            raise ValueError(f"{self.name}: buckets: each is [height, width], got {wrong[0]}")
        sizes = tuple((int(height), int(width)) for height, width in buckets)
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"{self.name}: buckets: one is listed twice, {[list(each) for each in sizes]}")
        if size not in sizes:
            raise ValueError(
                f"{self.name}: buckets: size {list(size)} is none of {[list(each) for each in sizes]}; set size to the one that "
                "samples are to have"
            )
        return sizes

    @property
    def framing(self) -> Framing | None:
        framing = super().framing
        if framing is None or not self.sizes:
            return framing
        own = (framing.height, framing.width, framing.how, framing.filter, framing.enlarge)
        return Bucketing(*own, sizes=self.sizes)

    def files(self) -> Sequence[Path]:
        """The files and folders that are read."""
        raise NotImplementedError

    def decoded(self, store: Callable[[str], MakeStore]) -> Sets:
        """The training set and the held-out set (None if there is none).

        Args:
            store: where the pixels of a split, "train" or "test", go; training's come first.
        """
        raise NotImplementedError

    def examples(
        self,
        decoded: Decoded,
        labels: Int64[Tensor, " n"] | None,
        name: str,
        num_classes: int,
        origin: Origin,
        class_names: Sequence[str],
        names: Sequence[str] = (),
    ) -> ImageSet | Crops | Bucketed:
        """Images that were decoded, with all that `ImageSet` takes."""
        rest = (labels, name, num_classes, origin, class_names)
        if isinstance(decoded.pixels, Ragged):
            framing = self.framing
            assert framing is not None
            if isinstance(framing, Bucketing):
                return Bucketed(decoded.pixels, framing, *rest, names=names)
            return Crops(decoded.pixels, framing, *rest, names=names)
        return ImageSet(tensor_of(decoded.pixels), *rest, names=names)
