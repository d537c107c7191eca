"""Images to latents and back: frozen autoencoders and the normalisation of what they give; no training, no sampling."""

from .decoding import as_images
from .diffusers import Diffusers
from .normalisation import Normalisation
from .pair import Pair
from .protocol import Autoencoder

__all__ = ["Autoencoder", "Diffusers", "Normalisation", "Pair", "as_images"]
