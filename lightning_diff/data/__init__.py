"""Sources of training and held-out examples, and the stream that training reads; no networks, no figures."""

from .augment import Augment
from .captions import Captions
from .digits import Digits
from .hugging_face import HuggingFace
from .image_set import Examples, ImageSet
from .images import Images
from .latents import EDM2Latents, Latents
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
    "Captions",
    "Data",
    "Datasets",
    "Digits",
    "EDM2Latents",
    "Examples",
    "Facts",
    "HuggingFace",
    "ImageSet",
    "Images",
    "Latents",
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
