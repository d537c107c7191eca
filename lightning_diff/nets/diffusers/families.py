"""The classes that are known, by name."""

from ...foundation.errors import UserError
from .dit import DiT
from .family import Config, Family
from .flux import Flux
from .pixart import PixArt
from .sana import Sana
from .sd3 import SD3
from .unet import UNet2D, UNet2DCondition

FAMILIES: dict[str, Family] = {
    family.class_name: family for family in (UNet2D(), UNet2DCondition(), DiT(), PixArt(), SD3(), Flux(), Sana())
}

# What the library itself puts in the place of a class of before, by its norm_type.
_BEFORE = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}


def family_of(class_name: str) -> Family:
    """UserError for a class that is not on the list."""
    if class_name not in FAMILIES:
        raise UserError(f"nets.Diffusers: class_name {class_name!r} is not known; use one of {', '.join(FAMILIES)}")
    return FAMILIES[class_name]


def modern(class_name: str, config: Config) -> str:
    """The name that a class has today: published DiT and PixArt call themselves Transformer2DModel."""
    return _BEFORE.get(config.get("norm_type", ""), class_name) if class_name == "Transformer2DModel" else class_name
