"""EDM's augmentations, on which the network is conditioned, so that they do not leak (arXiv 2206.00364, appendix F.2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import grid_sample

from ..foundation import rng

Part = Literal["x_flip", "y_flip", "scale", "rotate", "stretch", "translate"]
PARTS: tuple[Part, ...] = ("x_flip", "y_flip", "scale", "rotate", "stretch", "translate")


@dataclass(eq=False)
class Augment:
    """Random geometry, with its parameters a as a conditioning vector (table 7).

    Each part is on with `probability`, independently; x_flip always is.

        part       image                                                        vector
        x_flip     mirrored if a0, a0 in {0, 1}                                 a0
        y_flip     turned upside down if a1, a1 in {0, 1}                       a1
        scale      larger by 2^(0.2 a2), a2 normal                              a2
        rotate     by a3, uniform in (-pi, pi)                                  cos a3 - 1, sin a3
        stretch    by 2^(0.2 a5) along the angle a4, and shrunk across;         a5 cos a4, a5 sin a4
                   in half of the cases a4 = 0, along x
        translate  by a6/8 of the width, a7/8 of the height, both normal        a6, a7

    What lies outside the image is its reflection. The vector of an untouched image is zero, so that sampling, which
    passes none, asks for plain images. Angles turn counter-clockwise as the picture is seen, as in EDM's code. Where EDM resamples
    with a wavelet filter, this interpolates bicubically: told EDM's own parameters, images differ by a root mean square of 0.005.

    Args:
        probability: of each part. EDM: 0.12 for CIFAR-10, 0.15 for FFHQ and AFHQv2.
        parts: those in use; a missing part's entries in the vector stay 0.
        form: "edm", or "0.1" for what version 0.1 of this project did: angles turned the other way, and a4 was always drawn.
    """

    probability: float = 0.12
    parts: Sequence[Part] = PARTS
    form: Literal["edm", "0.1"] = "edm"

    dim: ClassVar[int] = 9

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"Augment: probability must be in [0, 1], got {self.probability}")
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise ValueError(f"Augment: unknown parts {', '.join(unknown)}; known are {', '.join(PARTS)}")
        if self.form not in ("edm", "0.1"):
            raise ValueError(f"Augment: form must be edm or 0.1, got {self.form!r}")

    def __call__(
        self, image: Float32[Tensor, "b c h w"], seed: int, positions: Int64[np.ndarray, " b"]
    ) -> tuple[Float32[Tensor, "b c h w"], Float32[Tensor, "b 9"]]:
        """Images as training examples number `positions` of the run `seed` see them, and their vectors."""
        a = self._draw(seed, positions)
        turn, stretch = [np.cos(a[3]) - 1, np.sin(a[3])], [a[5] * np.cos(a[4]), a[5] * np.sin(a[4])]
        vector = np.stack([*a[:3], *turn, *stretch, *a[6:]], axis=1)
        image = image.clone()
        for axis, flipped in ((-1, a[0] > 0), (-2, a[1] > 0)):
            chosen = torch.from_numpy(flipped)
            image[chosen] = image[chosen].flip(axis)
        moved = np.flatnonzero(np.abs(a[2:]).max(0) > 0)
        if len(moved):
            turning = a[:, moved]
            if self.form == "0.1":
                turning[3:5] *= -1
            image[moved] = _resample(image[moved], _inverse(turning))
        return image, torch.from_numpy(vector.astype(np.float32))

    def _draw(self, seed: int, positions: Int64[np.ndarray, " b"]) -> Float[np.ndarray, "8 b"]:
        """a0 ... a7 of table 7; 0 where a part is off."""

        def uniform(what: str) -> Float[np.ndarray, " b"]:
            return rng.uniform(seed, f"augment {what}", positions)

        def normal(what: str) -> Float[np.ndarray, " b"]:
            draws: np.ndarray = torch.special.ndtri(torch.from_numpy(uniform(what))).numpy()
            return draws

        a = np.zeros((8, len(positions)))
        for part in self.parts:
            probability = 1.0 if part == "x_flip" else self.probability
            on = uniform(f"{part} on") < probability
            match part:
                case "x_flip":
                    a[0] = on * (uniform(part) < 0.5)
                case "y_flip":
                    a[1] = on * (uniform(part) < 0.5)
                case "scale":
                    a[2] = on * normal(part)
                case "rotate":
                    a[3] = on * (2 * uniform(part) - 1) * math.pi
                case "stretch":
                    a[4] = on * (2 * uniform(f"{part} angle") - 1) * math.pi
                    if self.form == "edm":
                        a[4] *= uniform(f"{part} turned") < 0.5
                    a[5] = on * normal(part)
                case "translate":
                    a[6], a[7] = on * normal(f"{part} x"), on * normal(f"{part} y")
        return a


def _inverse(a: Float[np.ndarray, "8 b"]) -> Float[np.ndarray, "b 2 3"]:
    """Where a point of the new image comes from: [L | shift] with L the inverse of stretch . rotate . scale.

    In coordinates whose y runs downwards `rotation(angle)` turns clockwise, and its inverse turns what it shows counter-clockwise.
    """

    def rotation(angle: Float[np.ndarray, " b"]) -> Float[np.ndarray, "2 2 b"]:
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, -s], [s, c]])

    longer = np.exp2(0.2 * a[5])
    unstretch = rotation(-a[4]) * np.stack([1 / longer, longer])  # a product with a diagonal matrix
    linear = _product(rotation(a[3]), _product(unstretch, rotation(a[4]))) / np.exp2(0.2 * a[2])
    # a/8 of the image is a/4 in coordinates that run from -1 to 1.
    shift = np.stack([a[6], a[7]])[:, None] / 4
    return np.concatenate([linear, shift], axis=1).transpose(2, 0, 1)


def _product(a: Float[np.ndarray, "2 2 b"], b: Float[np.ndarray, "2 2 b"]) -> Float[np.ndarray, "2 2 b"]:
    """Written out, because a library's matrix product may round differently in batches of another size."""
    return np.array([[a[i, 0] * b[0, j] + a[i, 1] * b[1, j] for j in range(2)] for i in range(2)])


def _resample(image: Float32[Tensor, "b c h w"], inverse: Float[np.ndarray, "b 2 3"]) -> Float32[Tensor, "b c h w"]:
    """Bicubic interpolation at the points that `inverse` names, reflecting at the borders."""
    height, width = image.shape[-2:]
    m = torch.from_numpy(inverse)[..., None, None]
    x = (torch.arange(width, dtype=torch.float64) * 2 + 1) / width - 1 - m[:, 0, 2]
    y = (torch.arange(height, dtype=torch.float64)[:, None] * 2 + 1) / height - 1 - m[:, 1, 2]
    x = x * (width / height)  # a rotation needs both axes in one unit
    source_x = (m[:, 0, 0] * x + m[:, 0, 1] * y) * (height / width)
    source_y = m[:, 1, 0] * x + m[:, 1, 1] * y
    grid = torch.stack([source_x, source_y], dim=-1).float()
    return grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
