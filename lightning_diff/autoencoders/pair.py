"""Any module that encodes and decodes, as an autoencoder."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..foundation.errors import UserError
from .normalisation import Factor, Normalisation

DType = Literal["float32", "bfloat16", "float16"]


class Pair:
    """A module with `encode(images)` and `decode(z)`, and the normalisation of what it encodes to.

    `encode` returns z, or (mean, standard deviation), or what diffusers' models return; `decode` a tensor, or an object with
    `sample`.

    Args:
        module: any nn.Module; it is put into eval mode and is not trained.
        scale, shift: latent = (z - shift) * scale, one number or one for each channel.
        weights: a safetensors file with the module's weights; None takes the module as it is.
        image_range: (low, high) of the images that the module takes and gives. The Stable Diffusion encoder of EDM2's latents was
            given images in (0, 1).
        dtype: that the module computes in.

    Raises:
        UserError: weights that are not there, or not the module's.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("weights",)  # the data's fingerprint has their content

    def __init__(
        self,
        module: nn.Module,
        scale: Factor = 1.0,
        shift: Factor = 0.0,
        *,
        weights: Path | str | None = None,
        image_range: Sequence[int | float] = (-1.0, 1.0),
        dtype: DType = "float32",
    ):
        if not (len(image_range) == 2 and image_range[0] < image_range[1]):
            raise ValueError(f"image_range: expected (low, high) with low < high, got {tuple(image_range)}")
        self.name, self.normalisation = type(module).__name__, Normalisation(scale, shift)
        self.image_range, self.dtype = (float(image_range[0]), float(image_range[1])), getattr(torch, dtype)
        if weights is not None:
            take_weights(module, read_weights(Path(weights)), str(weights))
        self._module = module
        self._is_ready = False
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}

    @property
    def module(self) -> nn.Module:
        """Frozen, in the precision that it computes in."""
        if not self._is_ready:
            # Not its own `to`, which diffusers' models override with a warning for every precision.
            self._module = nn.Module.to(self._module.eval().requires_grad_(False), self.dtype)
            self._is_ready = True
        return self._module

    def moments(self, images: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor | None]:
        """See `Autoencoder`."""
        low, high = self.image_range
        found = self._called("encode", (images.float() + 1) * ((high - low) / 2) + low)
        found = getattr(found, "latent_dist", getattr(found, "latent", found))
        mean, std = (found, None) if isinstance(found, Tensor) else _mean_and_std(found)
        return mean.float(), None if std is None else std.float()

    def encode(
        self, images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b k u v"] | None = None
    ) -> Float[Tensor, "b k u v"]:
        """See `Autoencoder`."""
        mean, std = self.moments(images)
        return self.normalisation.apply(mean if noise is None or std is None else mean + std * noise)

    def decode(self, latents: Float[Tensor, "b k u v"]) -> Float[Tensor, "b c h w"]:
        """See `Autoencoder`."""
        low, high = self.image_range
        found = self._called("decode", self.normalisation.undo(latents.float()))
        images: Tensor = getattr(found, "sample", found)
        return (images.float() - low) * (2 / (high - low)) - 1

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """See `Autoencoder`."""
        return self._shape(shape, "encode")

    def image_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        """See `Autoencoder`."""
        return self._shape(latent_shape, "decode")

    def fingerprint(self) -> str:
        """See `Autoencoder`."""
        return f"{self._content()} {self.image_range} {self.dtype}"

    def settings(self) -> dict[str, object]:
        """By name, what `moments` depends on beside weights: what is told of encoders that differ."""
        return {"class": type(self._module).__name__, "image_range": self.image_range, "dtype": self.dtype}

    def _content(self) -> str:
        digest = hashlib.sha256(repr(self.module).encode())
        for name, value in self.module.state_dict().items():
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _shape(self, shape: Sequence[int], how: Literal["encode", "decode"]) -> tuple[int, ...]:
        """By one example of zeros, the first time."""
        key = (how == "encode", *shape)
        if key not in self._shapes:
            try:
                made = (
                    self.moments(torch.zeros(1, *shape))[0] if how == "encode" else self.decode(torch.zeros(1, *shape))
                )
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"{self.name}: does not {how} examples of shape {list(shape)}: {reason}") from error
            self._shapes[key] = tuple(made.shape[1:])
        return self._shapes[key]

    @torch.no_grad()
    def _called(self, how: Literal["encode", "decode"], x: Tensor) -> Any:
        """The module's own method, on the device of x: the weights come there."""
        module = self.module
        weight = next(module.parameters(), None)
        if weight is not None and weight.device != x.device:
            module.to(x.device)
        with torch.autocast(x.device.type, enabled=False):
            return getattr(module, how)(x.to(self.dtype))


def _mean_and_std(found: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(found, tuple | list):
        mean, std = found
        return mean, std
    return found.mean, found.std


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. UserError where it cannot be read."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def take_weights(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load exactly the weights that a module has. UserError with the first that is missing, unknown or of another shape."""
    own = module.state_dict()
    for name in dict.fromkeys([*own, *tensors]):
        here, there = own.get(name), tensors.get(name)
        if here is None or there is None or here.shape != there.shape:
            said = ["none" if each is None else f"one of shape {list(each.shape)}" for each in (there, here)]
            raise UserError(
                f"{where}: weights of another {type(module).__name__}: the file has {said[0]} called {name}, the network {said[1]}"
            )
    module.load_state_dict(tensors)
