"""Shapes of what a network from diffusers takes, from its config: the latents, and conditions where no text encoder says more."""

from collections.abc import Mapping
from typing import Any

from ...foundation.errors import UserError
from .index import Contents

Config = Mapping[str, Any]

FLUX_SIDE = 128  # of latents: its config has none, its pipeline draws 1,024 pixels
PACK = 2  # Flux sees a token for so many latents squared
# Tokens of a prompt, as the pipelines ask their encoders for.
TOKENS = {
    "FluxPipeline": 512,
    "LatentConsistencyModelPipeline": 77,
    "PixArtAlphaPipeline": 120,
    "PixArtSigmaPipeline": 300,
    "SanaPipeline": 300,
    "SanaSprintPipeline": 300,
    "StableDiffusion3Pipeline": 77 + 256,  # CLIP's, then T5's
    "StableDiffusionPipeline": 77,
    "StableDiffusionXLPipeline": 77,
}
ALONE = {  # a network without a pipeline, as the commonest one
    "FluxTransformer2DModel": "FluxPipeline",
    "PixArtTransformer2DModel": "PixArtSigmaPipeline",
    "SD3Transformer2DModel": "StableDiffusion3Pipeline",
    "SanaTransformer2DModel": "SanaPipeline",
    "UNet2DConditionModel": "StableDiffusionPipeline",
}


def latent_shape(contents: Contents, size: int | None = None) -> tuple[int, int, int]:
    """(C, H, W) of what the network denoises; UserError where its config says no size and nobody else does.

    Args:
        contents: of the folder.
        size: height and width in latents, in place of the config's.
    """
    config = contents.network_config
    channels = latent_channels(contents)
    default = FLUX_SIDE if contents.network_class == "FluxTransformer2DModel" else None
    found = config.get("sample_size", default) if size is None else size
    sides = found if isinstance(found, list | tuple) else (found, found)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(
            f"{contents.network / 'config.json'}: sample_size: is {found!r}; say the height and width of its latents with --size"
        )
    return channels, sides[0], sides[1]


def latent_channels(contents: Contents) -> int:
    """Of what the network denoises. UserError where its config has none."""
    config, is_flux = contents.network_config, contents.network_class == "FluxTransformer2DModel"
    found = config.get("in_channels", 64 if is_flux else None)
    if not isinstance(found, int):
        raise UserError(f"{contents.network / 'config.json'}: in_channels: is {found!r}; expected a number")
    return found // PACK**2 if is_flux else found


def refuse_other_channels(contents: Contents) -> None:
    """UserError unless network and autoencoder agree on the channels of latents."""
    if contents.autoencoder_config is None or contents.autoencoder is None:
        return
    default = 4 if contents.autoencoder_class == "AutoencoderKL" else 32
    theirs, own = contents.autoencoder_config.get("latent_channels", default), latent_channels(contents)
    if theirs != own:
        raise UserError(
            f"{contents.autoencoder / 'config.json'}: latent_channels: is {theirs}, and the network in {contents.network} takes "
            f"{own} channels; they are of two models, or the network takes more than latents (inpainting), which is not known here"
        )


def image_tokens(contents: Contents, shape: tuple[int, int, int]) -> int:
    """Of Flux, for latents of this shape: what its shift depends on."""
    return shape[1] * shape[2] // PACK**2


def text_tokens(contents: Contents) -> int:
    """Of a prompt; 0 for a network without prompts."""
    return TOKENS.get(contents.pipeline or ALONE.get(contents.network_class, ""), 0)
