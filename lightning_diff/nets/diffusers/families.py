"""The classes that are known, by name."""

from typing import Any

from ...foundation.errors import UserError
from .building import arguments
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


def modern(class_name: str, config: Config) -> tuple[str, dict[str, Any]]:
    """The name that a class has today and its arguments: published DiT and PixArt call themselves Transformer2DModel."""
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    if class_name != "Transformer2DModel" or (today := _BEFORE.get(given.get("norm_type", ""))) is None:
        return class_name, given
    takes = arguments(FAMILIES[today])
    return today, {name: value for name, value in given.items() if name in takes}
