"""Images of any size made one size: cropped, padded or stretched, and shrunk with a filter that leaves no aliases."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from .deep import ImageError

How = Literal["centre_crop", "random_crop", "pad", "stretch"]
Filter = Literal["area", "lanczos", "adm"]
Plane: TypeAlias = Shaped[np.ndarray, "_ _ _"]  # (channels, height, width)

_RESAMPLING = {
    "area": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
    "adm": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Framing:
    """How images come to one size (docs/data.md has the table).

    Args:
        height, width: of the result.
        how: centre_crop takes the largest central part of that shape, and shrinks it; stretch shrinks the whole image, whatever
            its shape; pad shrinks it until it fits and lays it on black; random_crop shrinks it until it just covers the result,
            and leaves the place of the crop to `crop`.
        filter: of the shrinking. area: the mean over what a pixel covers. lanczos: EDM's dataset tool, `--transform=center-crop`
            (Karras et al. 2022). adm: halved by means while twice as large, then bicubic (Dhariwal & Nichol 2021,
            `center_crop_arr`), the "dhariwal" of EDM2's dataset tool.
        enlarge: take smaller images, too, made larger by the same filter; else they are refused (by pad: left at their size).
        cover: for random_crop, the length in pixels that the shorter side is shrunk to before; None: as short as can be.
    """

    height: int
    width: int
    how: How = "centre_crop"
    filter: Filter = "area"
    enlarge: bool = False
    cover: int | None = None

    @property
    def ragged(self) -> bool:
        """Whether what `apply` gives may be of several sizes."""
        return self.how == "random_crop"

    def apply(self, x: Plane) -> Plane:
        """(C, height, width) of an image (C, H, W), bytes or values in [-1, 1]; of random_crop, what is to be cropped from.

        Raises:
            ImageError: too small.
        """
        height, width = x.shape[1:]
        if self.how != "pad" and not self.enlarge:
            self._refuse_small(height, width)
        if self.how == "stretch":
            x = _halved(x, self.height, self.width) if self.filter == "adm" else x
            return resampled(x, self.height, self.width, self.filter)
        if self.how == "pad":
            return self._padded(x)
        if self.how == "random_crop":
            if self.filter == "adm":
                x = _halved(x, self.cover or self.height, self.cover or self.width)
            return resampled(x, *self._covering(*x.shape[1:]), self.filter)
        if self.filter == "adm":  # which shrinks all of it, and crops then
            x = _halved(x, self.height, self.width)
            x = resampled(x, *self._covering(*x.shape[1:]), self.filter)
            top, left = (x.shape[1] - self.height) // 2, (x.shape[2] - self.width) // 2
            return x[:, top : top + self.height, left : left + self.width]
        return resampled(x, self.height, self.width, self.filter, self._central(height, width))

    def crop(self, x: Plane, down: float | None = None, right: float | None = None) -> Plane:
        """What random_crop takes from a larger image.

        Args:
            x: (C, H, W), H >= height and W >= width.
            down, right: where, in [0, 1): from the first to the last place; None: the middle.
        """
        rows, columns = x.shape[1] - self.height, x.shape[2] - self.width
        top = rows // 2 if down is None else int(down * (rows + 1))
        left = columns // 2 if right is None else int(right * (columns + 1))
        return x[:, top : top + self.height, left : left + self.width]

    def _refuse_small(self, height: int, width: int) -> None:
        least_high, least_wide = self.height, self.width
        if self.how == "random_crop" and self.cover is not None:
            least_high = least_wide = self.cover
        if height < least_high or width < least_wide:
            wanted = f"{self.height}" if self.height == self.width else f"[{self.height}, {self.width}]"
            more = f" crop_from={self.cover} and" if self.how == "random_crop" and self.cover else ""
            raise ImageError(f"{width}x{height} is too small: without enlarge=true it has to fill{more} size={wanted}")

    def _central(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the largest central part of the result's shape."""
        wide = min(width, round(height * self.width / self.height))
        high = min(height, round(width * self.height / self.width))
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high

    def _covering(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at the same scale, both at least the result's."""
        scale = max(self.height / height, self.width / width)
        if self.how == "random_crop" and self.cover is not None:
            scale = self.cover / min(height, width)
        return max(round(height * scale), self.height), max(round(width * scale), self.width)

    def _padded(self, x: Plane) -> Plane:
        scale = min(self.height / x.shape[1], self.width / x.shape[2])
        if not self.enlarge:
            scale = min(scale, 1.0)
        height, width = (max(round(side * scale), 1) for side in x.shape[1:])
        top, left = (self.height - height) // 2, (self.width - width) // 2
        out = np.full((len(x), self.height, self.width), 0 if x.dtype == np.uint8 else -1, x.dtype)
        x = _halved(x, height, width) if self.filter == "adm" else x
        out[:, top : top + height, left : left + width] = resampled(x, height, width, self.filter)
        return out


def resampled(x: Plane, height: int, width: int, filter: Filter, box: tuple[int, int, int, int] | None = None) -> Plane:
    """(C, height, width), by Pillow; "adm" is bicubic here.

    Args:
        x: (C, H, W), uint8 or float32.
        height, width: of the result.
        filter: see `Framing`.
        box: left, top, right and bottom of the part that is resampled; None: all.
    """
    if box is None:
        box = (0, 0, x.shape[2], x.shape[1])
    if filter != "area":  # which sees nothing beyond the box; the others would
        x, box = x[:, box[1] : box[3], box[0] : box[2]], (0, 0, box[2] - box[0], box[3] - box[1])
    planes = (plane.resize((width, height), _RESAMPLING[filter], box=box) for plane in _pictures(x))
    return _stacked(planes, len(x))


def _halved(x: Plane, height: int, width: int) -> Plane:
    """Means of 2x2 pixels, as often as the image is at least twice this size."""
    while x.shape[1] >= 2 * height and x.shape[2] >= 2 * width:
        half = (x.shape[2] // 2, x.shape[1] // 2)
        x = _stacked((plane.resize(half, Image.Resampling.BOX) for plane in _pictures(x)), len(x))
    return x


def _pictures(x: Plane) -> Iterator[Image.Image]:
    """All of (C, H, W) in one picture if that is RGB, else each plane in its own."""
    if x.dtype == np.uint8 and len(x) == 3:
        yield Image.fromarray(np.ascontiguousarray(x.transpose(1, 2, 0)))
    else:
        yield from (Image.fromarray(np.ascontiguousarray(plane)) for plane in x)


def _stacked(pictures: Iterable[Image.Image], channels: int) -> Plane:
    planes = [np.asarray(picture) for picture in pictures]
    return planes[0].transpose(2, 0, 1) if len(planes) < channels else np.stack(planes)
