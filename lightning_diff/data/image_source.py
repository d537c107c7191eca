"""What all sources of images have in common: how images of many forms are read, and what labels mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from .pixels import Reading
from .source import Data


@dataclass(eq=False, kw_only=True)
class ImageSource(Data):
    """A source whose images may come in any form of the table in docs/data.md; a subclass says from where.

    Args:
        channels: 3 makes grey images coloured, 1 makes coloured ones grey; None: grey if all are, else 3.
        value_range: (low, high) of float images, mapped to (-1, 1); None takes floats of any size as they are.
        white: the number that is white in whole numbers of more than 8 bits; None: 65,535 in those of 16 bits, and others
            are refused.
        layout: of arrays with three axes, "CHW" or "HWC"; None: where the 1 or 3 channels are.
        classes: number of classes; 0 counts them: the greatest label + 1.
    """

    # The images and labels themselves are compared.
    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("channels", "layout", "classes")

    channels: int | None = None
    value_range: Sequence[int | float] | None = (-1.0, 1.0)
    white: int | None = None
    layout: Literal["CHW", "HWC"] | None = None
    classes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        span = self.value_range
        if span is not None and not (len(span) == 2 and span[0] < span[1]):
            raise ValueError(f"{self.name}: value_range must be (low, high) with low < high, got {span}")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"{self.name}: channels must be at least 1, got {self.channels}")
        if self.white is not None and self.white < 1:
            raise ValueError(f"{self.name}: white must be at least 1, got {self.white}")
        if self.classes < 0:
            raise ValueError(f"{self.name}: classes must not be negative, got {self.classes}")

    def reading(self, channels: int | None, size: int | None = None) -> Reading:
        """How each image is read, with this many channels."""
        span = None if self.value_range is None else (float(self.value_range[0]), float(self.value_range[1]))
        return Reading(channels, size, span, self.white, self.layout)
