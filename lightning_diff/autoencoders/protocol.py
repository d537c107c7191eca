"""What data, samples and rewards need of an autoencoder."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from .normalisation import Normalisation


@runtime_checkable
class Autoencoder(Protocol):
    """Images (B, C, H, W) in [-1, 1] to normalised latents (B, c, h, w) and back: frozen, float32 in and out, without a graph.

    It computes on the device of what it is given, and draws nothing: noise comes from the caller.

    Attributes:
        name: what reports and caches call it.
        normalisation: from what the encoder gives to latents.
    """

    name: str
    normalisation: Normalisation

    def moments(self, images: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation (None: it has none) of what the encoder gives, (B, c, h, w) each, not normalised."""
        ...

    def encode(
        self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b k u v"] | None = None
    ) -> Float[Tensor, "b k u v"]:
        """Normalised latents: of the mean, or of the sample mean + std * noise."""
        ...

    def decode(self, latents: Float[Tensor, "b k u v"]) -> Float[Tensor, "b c h w"]:
        """Images in about [-1, 1], neither clipped nor rounded."""
        ...

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of the latents of an image of this shape. UserError for images that it does not take."""
        ...

    def image_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        """Of the image of latents of this shape. UserError for latents that are not its own."""
        ...

    def fingerprint(self) -> str:
        """Hexadecimal digits that change whenever what `moments` gives could; the normalisation is not in it."""
        ...
