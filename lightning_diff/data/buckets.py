"""Several shapes that the images of a set come in, each in the one that is nearest to its own: training's batches are of one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ..foundation.errors import UserError
from .deep import ImageError
from .image_set import Examples, Indices
from .resize import Framing, Plane

Size = tuple[int, int]  # height and width


@dataclass(frozen=True, eq=False)
class Buckets:
    """Which of several shapes each example of a set has.

    Args:
        shapes: of an example of each bucket.
        of: number of each example's bucket.
        sizes: height and width, in pixels, of each bucket's images; of latents, those that they are of.
    """

    shapes: tuple[tuple[int, ...], ...]
    of: Int64[np.ndarray, " n"]
    sizes: tuple[Size, ...]

    @property
    def counts(self) -> list[int]:
        """Of examples, in each bucket."""
        counts: list[int] = np.bincount(self.of, minlength=len(self.shapes)).tolist()
        return counts

    @property
    def members(self) -> list[Int64[np.ndarray, " _"]]:
        """Indices of the examples of each bucket."""
        return [np.flatnonzero(self.of == number) for number in range(len(self.shapes))]

    def part(self, places: Int64[np.ndarray, " _"]) -> "Buckets":
        """Of these examples alone, in this order."""
        return Buckets(self.shapes, self.of[places], self.sizes)

    def shape_of(self, indices: Indices, name: str) -> tuple[int, ...]:
        """The shape of these examples, at least one. UserError where they have several.

        Args:
            name: of the examples, for the message.
        """
        numbers = np.unique(self.of[np.asarray(indices)])
        if len(numbers) > 1:
            some = " and ".join(_words(self.sizes[number]) for number in numbers[:2])
            raise UserError(f"{name}: images of {some} in one batch; take images of one bucket at a time")
        return self.shapes[numbers[0]]

    def per_epoch(self, batch_size: int) -> int:
        """Examples that an epoch shows, in whole batches of one shape each."""
        return sum(count - count % batch_size for count in self.counts)

    def refuse_small(self, name: str, batch_size: int) -> None:
        """UserError for a bucket whose images would never be shown, since they fill no batch.

        Args:
            name: of the data, for the message.
        """
        rows = list(zip(self.counts, self.sizes, strict=True))
        small = [f"{count} of {_words(size)}" for count, size in rows if 0 < count < batch_size]
        if not small:
            return
        others = [list(size) for count, size in rows if count >= batch_size]
        instead = f", or leave these buckets out, so that their images go to the nearest others: buckets={others}"
        raise UserError(
            f"{name}: buckets: {', '.join(small)} fill no batch of {batch_size} and would never be shown; take a smaller batch_size"
            + (instead if others else "")
        )

    def summary(self, batch_size: int) -> str:
        """How many images are in which bucket, and how many of them an epoch leaves out."""
        rows = list(zip(self.counts, self.sizes, strict=True))
        filled = ", ".join(f"{f'{count:,}' if count else 'none'} of {_words(size)}" for count, size in rows)
        left = [f"{rest} of {_words(size)}" for count, size in rows if (rest := count % batch_size)]
        told = f"each epoch leaves out {', '.join(left)}, others each time" if left else "each epoch shows all"
        return f"{len(rows)} buckets: {filled}; batches of {batch_size} are of one shape, and {told}"


def of_one_shape(examples: Examples, indices: Indices, most: int) -> Iterator[Int64[np.ndarray, " _"]]:
    """Places in `indices` whose examples can be taken together, bucket by bucket, at most so many at a time.

    Args:
        examples: in buckets, or all of one shape.
        indices: of some of them.
        most: of examples together.
    """
    buckets: Buckets | None = getattr(examples, "buckets", None)
    places = np.arange(len(indices))
    of = np.zeros(len(indices), np.int64) if buckets is None else buckets.of[np.asarray(indices)]
    for number in np.unique(of):
        together = places[of == number]
        yield from (together[start : start + most] for start in range(0, len(together), most))


@dataclass(frozen=True)
class Bucketing(Framing):
    """How images come to one of several sizes: that whose aspect ratio is nearest to their own, by its logarithm.

    Args:
        height, width: of the size that stands for all.
        sizes: heights and widths; the first of two that are equally near is taken.
    """

    sizes: tuple[Size, ...] = ()

    @property
    def ragged(self) -> bool:
        return True

    def apply(self, x: Plane) -> Plane:
        """An image (C, H, W), as `Framing` makes it, in its bucket's size.

        Raises:
            ImageError: too small for it.
        """
        height, width = self.nearest(x.shape[1], x.shape[2])
        if self.how != "pad" and not self.enlarge and (x.shape[1] < height or x.shape[2] < width):
            found = f"{x.shape[2]}x{x.shape[1]}"
            raise ImageError(
                f"{found} is too small: without enlarge=true it has to fill its bucket, [{height}, {width}]"
            )
        return Framing(height, width, self.how, self.filter, self.enlarge).apply(x)

    def nearest(self, height: int, width: int) -> Size:
        """Of all sizes, that with the least |ln(aspect ratio of the size / width * height)|.

        Compared as exp of it, a quotient of two whole numbers, so that no machine's logarithm decides.
        """

        def apart(size: Size) -> float:
            one, other = size[0] * width, size[1] * height
            return max(one, other) / min(one, other)

        return min(self.sizes, key=apart)


def sizes_around(height: int, width: int, count: int, step: int, ratio: float) -> tuple[Size, ...]:
    """Sizes of about the same area, from the highest to the widest, with the given one in the middle.

    Their aspect ratios are width / height times ratio^(k / m), k = -m ... m, count = 2 m + 1, but for the rounding of their sides.

    Args:
        height, width: multiples of `step`.
        count: odd, >= 3.
        step: that all sides are multiples of, in pixels.
        ratio: > 1.

    Raises:
        ValueError: two would be the same.
    """
    m = count // 2

    def rounded(side: float) -> int:
        return max(round(side / step), 1) * step

    scales = [ratio ** (k / m / 2) for k in range(-m, m + 1)]
    sizes = tuple((rounded(height / scale), rounded(width * scale)) for scale in scales)
    if len(set(sizes)) < count:
        there = [list(size) for size in dict.fromkeys(sizes)]
        raise ValueError(
            f"{count} sizes around [{height}, {width}] in steps of {step} would be only {there}; take fewer buckets, a larger "
            "bucket_ratio or a smaller bucket_step"
        )
    return sizes


def _words(size: Size) -> str:
    """As images are called: width x height."""
    return f"{size[1]}x{size[0]}"
