"""What all sources of images have in common: how images of many forms are read, and what labels mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from .pixels import Reading
from .resize import Filter, Framing, How
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
        size: of every image in pixels, of squares, or [height, width]; None leaves images as they are, all of one size.
        resize: how they come to that size; None: centre_crop, if there is one. docs/data.md says what each does.
        filter: that shrinks them: "area", the mean; "lanczos" as EDM's dataset tool does it, "adm" as ADM's training does.
        enlarge: take images that are smaller than `size`, too, made larger.
        crop_from: for random_crop, the length that the shorter side is shrunk to before; None: as short as can be.
    """

    # The images and labels themselves are compared.
    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("channels", "layout", "classes")

    channels: int | None = None
    value_range: Sequence[int | float] | None = (-1.0, 1.0)
    white: int | None = None
    layout: Literal["CHW", "HWC"] | None = None
    classes: int = 0
    size: int | Sequence[int] | None = None
    resize: How | Literal["none"] | None = None
    filter: Filter = "area"
    enlarge: bool = False
    crop_from: int | None = None

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
        self._check_size()

    @property
    def framing(self) -> Framing | None:
        """How images come to one size; None: they stay as they are."""
        if self.size is None:
            return None
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        how: How = "centre_crop" if self.resize is None or self.resize == "none" else self.resize
        return Framing(height, width, how, self.filter, self.enlarge, self.crop_from)

    def reading(self, channels: int | None) -> Reading:
        """How each image is read, with this many channels."""
        span = None if self.value_range is None else (float(self.value_range[0]), float(self.value_range[1]))
        return Reading(channels, self.framing, span, self.white, self.layout)

    def _check_size(self) -> None:
        sides = [self.size] if isinstance(self.size, int) else list(self.size or ())
        if self.size is not None and not (len(sides) in (1, 2) and min(sides) >= 1):
            raise ValueError(f"{self.name}: size must be at least 1, or [height, width], got {self.size}")
        if (self.size is None) != (self.resize in (None, "none")) and not (self.resize is None and sides):
            raise ValueError(f"{self.name}: size and resize go together, got size={self.size}, resize={self.resize}")
        if self.crop_from is not None and (self.resize != "random_crop" or self.crop_from < max(sides)):
            raise ValueError(
                f"{self.name}: crop_from is for resize=random_crop and must be at least size, got {self.crop_from}"
            )
