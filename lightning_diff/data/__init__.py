"""Sources of training and held-out examples, and the stream that training reads; no networks, no figures."""

from .augment import Augment
from .digits import Digits
from .hugging_face import HuggingFace
from .image_set import Examples, ImageSet
from .images import Images
from .map_dataset import MapDataset
from .noise import Noise
from .photo_patches import PhotoPatches
from .random_access import Datasets, LitData
from .source import Data, Facts
from .stream import Positions, Stream, drawn, loader
from .toy import Toy
from .web_dataset import WebDataset

__all__ = [
    "Augment",
    "Data",
    "Datasets",
    "Digits",
    "Examples",
    "Facts",
    "HuggingFace",
    "ImageSet",
    "Images",
    "LitData",
    "MapDataset",
    "Noise",
    "PhotoPatches",
    "Positions",
    "Stream",
    "Toy",
    "WebDataset",
    "drawn",
    "loader",
]
