"""Images to latents and back: frozen autoencoders and the normalisation of what they give; no training, no sampling."""

from .decoding import as_images
from .diffusers import Diffusers
from .edm2 import EDM2, EDM2_NORMALISATION
from .normalisation import Normalisation
from .pair import Pair
from .protocol import Autoencoder

__all__ = ["EDM2", "EDM2_NORMALISATION", "Autoencoder", "Diffusers", "Normalisation", "Pair", "as_images"]
