"""Images in: sources, and the stream that training reads."""

from .augment import Augment
from .digits import Digits
from .image_set import Examples, ImageSet
from .source import Data
from .stream import Positions, Stream, loader

__all__ = ["Augment", "Data", "Digits", "Examples", "ImageSet", "Positions", "Stream", "loader"]
