"""Which of the values that they might have the images of a source have: what tells a wrong unit."""

from dataclasses import dataclass
from math import inf

import numpy as np
from PIL import Image

from ..foundation.errors import UserError
from .pixels import Pixels, Reading

DIM = 1 / 15  # of white: scans of 12 bits in files of 16
NEARLY_BLACK = 0.01  # of value_range


@dataclass
class Span:
    """Lowest and highest value met, of floats, of whole numbers of more than 8 bits (both in [-1, 1]) and of bytes."""

    floats: tuple[float, float] = (inf, -inf)
    wide: tuple[float, float] = (inf, -inf)
    bytes: tuple[float, float] = (inf, -inf)
    count: int = 0

    @classmethod
    def of(cls, pixels: Pixels, stored: object) -> "Span":
        """Of one image: its pixels, and the form in which it was held."""
        if pixels.size == 0:
            return cls()
        span = float(pixels.min()), float(pixels.max())
        if pixels.dtype == np.uint8:
            return cls(bytes=span, count=1)
        return cls(floats=span, count=1) if _holds_floats(stored) else cls(wide=span, count=1)

    def add(self, other: "Span") -> None:
        self.floats, self.wide, self.bytes = (
            (min(mine[0], its[0]), max(mine[1], its[1]))
            for mine, its in ((self.floats, other.floats), (self.wide, other.wide), (self.bytes, other.bytes))
        )
        self.count += other.count

    def check(self, where: str, reading: Reading) -> None:
        """UserError where all the floats lie in a half of value_range that nobody fills by chance."""
        if reading.value_range is None or self.floats[0] > self.floats[1]:
            return
        low, high = reading.value_range
        middle = (low + high) / 2
        if self.floats[0] >= 0:
            raise UserError(
                f"{where}: no value of {self.count} items lies in the lower half of value_range ({low:g}, "
                f"{high:g}); set value_range to what the images span, such as ({middle:g}, {high:g})"
            )
        if self.floats[1] <= 2 * NEARLY_BLACK - 1:
            raise UserError(
                f"{where}: no value of {self.count} items lies in the upper 99 % of value_range ({low:g}, {high:g}); "
                "set value_range to what the images span, such as (0, 1)"
            )

    def notes(self, reading: Reading) -> list[str]:
        """What looks wrong and may be right."""
        notes = []
        if self.wide[0] <= self.wide[1] and reading.white is None and (self.wide[1] + 1) / 2 <= DIM:
            most = round((self.wide[1] + 1) / 2 * 65535)
            white = 2 ** most.bit_length() - 1
            notes.append(f"no value above {most:,} of 65,535: if {white} is white, set white={white}")
        if self.bytes[0] <= self.bytes[1] <= 1:
            notes.append("no byte above 1 of 255: the images are nearly black; give bool, or multiply by 255")
        return notes


def _holds_floats(stored: object) -> bool:
    if isinstance(stored, Image.Image):
        return stored.mode == "F"
    return "float" in str(getattr(stored, "dtype", "float"))
