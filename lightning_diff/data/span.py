"""Which of the values that they might have the images of a source have: what tells a wrong unit."""

from math import inf
from typing import Literal

import numpy as np
from PIL import Image

from ..foundation.errors import UserError
from .pixels import Pixels, Reading

Kind = Literal["bytes", "wide", "floats"]  # stored as bytes, as whole numbers of more than 8 bits, as floats

DIM = 2 / 15 - 1  # of 16 bits: scans of 12
NEARLY_BLACK = 0.02 - 1


def kind_of(pixels: Pixels, stored: object) -> Kind:
    """How an image was stored whose pixels these are."""
    if pixels.dtype == np.uint8:
        return "bytes"
    mode = stored.mode if isinstance(stored, Image.Image) else None
    dtype = str(getattr(stored, "dtype", "float"))  # of numpy or torch
    return "floats" if mode == "F" or (mode is None and "float" in dtype) else "wide"


class Span:
    """Lowest and highest value of each kind of images, in [-1, 1], and how many images were seen."""

    def __init__(self) -> None:
        self.of: dict[Kind, tuple[float, float]] = {}
        self.count = 0

    def add(self, kind: Kind, low: float, high: float) -> None:
        lowest, highest = self.of.get(kind, (inf, -inf))
        self.of[kind] = min(low, lowest), max(high, highest)

    def check(self, where: str, reading: Reading) -> None:
        """UserError where all the floats lie in a part of value_range that nobody fills by chance."""
        if reading.value_range is None or "floats" not in self.of:
            return
        (low, high), (lowest, highest) = reading.value_range, self.of["floats"]
        begin = f"{where}: no value of {self.count} items lies in the"
        end = f"of value_range ({low:g}, {high:g}); set value_range to what the images span, such as"
        if lowest >= 0:
            raise UserError(f"{begin} lower half {end} ({(low + high) / 2:g}, {high:g})")
        if highest <= NEARLY_BLACK:
            raise UserError(f"{begin} upper 99 % {end} (0, 1)")

    def notes(self, reading: Reading) -> list[str]:
        """What looks wrong and may be right."""
        notes = []
        most = (self.of.get("wide", (1, 1))[1] + 1) / 2 * 65535
        if reading.white is None and most <= (DIM + 1) / 2 * 65535:
            white = 2 ** round(most).bit_length() - 1
            notes.append(f"no value above {most:,.0f} of 65,535: if {white} is white, set white={white}")
        if self.of.get("bytes", (1, 1))[1] <= 1.5 / 127.5 - 1:
            notes.append("no byte above 1 of 255: the images are nearly black; give bool, or multiply by 255")
        return notes
