"""Images as an autoencoder encodes them, from a cache, from EDM2's files or as they are needed; no autoencoders themselves."""

from .edm2 import EDM2Latents
from .source import Latents

__all__ = ["EDM2Latents", "Latents"]
