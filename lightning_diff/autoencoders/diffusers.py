"""Autoencoders in folders as the library diffusers writes them."""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ..foundation.atomic import sha256
from ..foundation.errors import NotHereError, UserError
from ..foundation.extras import quietly, required
from .normalisation import Factor
from .pair import DType, Pair, read_weights, take_weights

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
BLOCKS = {
    "AutoencoderKL": "block_out_channels",
    "AutoencoderDC": "encoder_block_out_channels",
}  # each but one halves the sides
# How Stable Diffusion's first files call what the library calls otherwise since its version 0.13.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Diffusers(Pair):
    """An `AutoencoderKL` or `AutoencoderDC` in a folder: config.json and safetensors. Needs the library diffusers.

    The class comes from the installed library, by this list of two; the folder brings no code along, and pickled weights are not
    read. Building one reads config.json alone; weights are read when something is encoded or decoded.

    Scale and shift are the config's: latents_mean and latents_std where it has both, latent = (z - mean) / std * scaling_factor,
    else scaling_factor and shift_factor (None: 0).

    Args:
        folder: of the autoencoder itself: the `vae` of a pipeline's folder.
        scale, shift: latent = (z - shift) * scale; None for the config's.
        tiling: encode and decode large images in overlapping tiles, of the config's sample_size (`AutoencoderDC`: 512 pixels): the
            memory is that of one tile, and what is near their edges changes.
        image_range, dtype: see `Pair`.

    Raises:
        UserError: no folder, no config.json, another class, no safetensors, weights that are not the class's.
    """

    RESUME_MAY_CHANGE: ClassVar[tuple[str, ...]] = ("folder",)  # the data's fingerprint has the files' content

    def __init__(
        self,
        folder: Path | str,
        scale: Factor | None = None,
        shift: Factor | None = None,
        *,
        tiling: bool = False,
        image_range: Sequence[int | float] = (-1.0, 1.0),
        dtype: DType = "float32",
    ):
        self.folder, self.tiling = Path(folder).expanduser(), tiling
        self.config = read_config(self.folder)
        own_scale, own_shift = _normalisation(self.config)
        super().__init__(
            nn.Identity(),  # until the weights are needed
            own_scale if scale is None else scale,
            own_shift if shift is None else shift,
            image_range=image_range,
            dtype=dtype,
        )
        self.name = f"{self.config['_class_name']} of {self.folder}"
        self.factor = 2 ** (len(self._setting(BLOCKS[self.config["_class_name"]], [64])) - 1)
        self.channels = int(self._setting("latent_channels", 4))
        self._files = weights_of(self.folder)
        self.normalisation.refuse_unfit(self.channels, str(self.folder / CONFIG))

    @property
    def module(self) -> nn.Module:
        """Built and loaded the first time."""
        if not self._is_ready:
            self._module = _built(self.folder, self.config, self._files)
            if self.tiling:
                self._module.enable_tiling()  # type: ignore[operator]
        return super().module

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """See `Autoencoder`."""
        wanted, where = int(self._setting("in_channels", 3)), self.folder / CONFIG
        if len(shape) != 3 or shape[0] != wanted:
            raise UserError(f"{where}: takes images of {wanted} channels, these are {list(shape)}")
        if shape[1] % self.factor or shape[2] % self.factor:
            raise UserError(
                f"{where}: makes sides {self.factor} times smaller, and {shape[2]}x{shape[1]} does not divide; crop the images"
            )
        return self.channels, shape[1] // self.factor, shape[2] // self.factor

    def image_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        """See `Autoencoder`."""
        if len(latent_shape) != 3 or latent_shape[0] != self.channels:
            raise UserError(
                f"{self.folder / CONFIG}: decodes latents of {self.channels} channels, these are {list(latent_shape)}"
            )
        height, width = (side * self.factor for side in latent_shape[1:])
        return int(self._setting("out_channels", self._setting("in_channels", 3))), height, width

    def _setting(self, name: str, default: Any) -> Any:
        found = self.config.get(name)
        return default if found is None else found

    def settings(self) -> dict[str, object]:
        """See `Pair.settings`; with digits that change with the config and with the weights."""
        return {
            "class": self.config["_class_name"],
            "config": hashlib.sha256(json.dumps(self._own_config, sort_keys=True).encode()).hexdigest()[:16],
            "weights": hashlib.sha256("".join(self._hashes).encode()).hexdigest()[:16],
            "tiling": self.tiling,
            "image_range": self.image_range,
            "dtype": self.dtype,
        }

    def _content(self) -> str:
        """Of the files: the same in any folder."""
        text = json.dumps([self.config["_class_name"], self.tiling, self._own_config], sort_keys=True)
        return hashlib.sha256("".join([text, *self._hashes]).encode()).hexdigest()

    @property
    def _own_config(self) -> dict[str, Any]:
        return {name: value for name, value in self.config.items() if not name.startswith("_")}

    @cached_property
    def _hashes(self) -> list[str]:
        """sha256 of the files of weights."""
        return [sha256(file) for file in self._files]


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json, of a class on the list. UserError for any other."""
    file = folder / CONFIG
    if not folder.is_dir():
        raise NotHereError(f"{folder}: no such folder (looked for it in {Path.cwd()})")
    if not file.is_file():
        inside = "; its folder vae has one" if (folder / "vae" / CONFIG).is_file() else ""
        raise UserError(f"{folder}: has no {CONFIG}, as an autoencoder saved by diffusers has{inside}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name not in BLOCKS:
        raise UserError(f"{file}: _class_name is {name!r}; autoencoders here are {', '.join(BLOCKS)}")
    return dict(config)


def weights_of(folder: Path) -> list[Path]:
    """The safetensors of a folder: one file, or the parts that an index names. UserError where there are none."""
    if (whole := folder / WEIGHTS).is_file():
        return [whole]
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            parts = [folder / Path(name).name for name in names]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: is no index of safetensors ({type(error).__name__}: {error})") from error
        if missing := [part for part in parts if not part.is_file()]:
            raise UserError(f"{missing[0]}: no such file, and {index.name} names it")
        return parts
    if len(variants := sorted(folder.glob("diffusion_pytorch_model.*.safetensors"))) == 1:
        return variants  # fp16, for instance
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:6])
    raise UserError(
        f"{folder}: has no {WEIGHTS} (it has {there}); other kinds of weights could run code and are not read: save it again with "
        "safe_serialization=True"
    )


def _normalisation(config: dict[str, Any]) -> tuple[Factor, Factor]:
    """Scale and shift of a config."""
    factor = config.get("scaling_factor")
    scale = (0.18215 if config["_class_name"] == "AutoencoderKL" else 1.0) if factor is None else float(factor)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return [scale / float(each) for each in std], [float(each) for each in mean]
    return scale, float(config.get("shift_factor") or 0.0)


def _built(folder: Path, config: dict[str, Any], files: list[Path]) -> nn.Module:
    with quietly():
        kind = getattr(required("diffusers", f"{folder / CONFIG}"), config["_class_name"])
    own = {name: value for name, value in config.items() if not name.startswith("_")}
    try:
        module: nn.Module = kind.from_config(own)
    except (TypeError, ValueError, RuntimeError, KeyError, ZeroDivisionError) as error:
        raise UserError(
            f"{folder / CONFIG}: makes no {config['_class_name']}: {' '.join(str(error).split())}"
        ) from error
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= {_renamed(name): value for name, value in read_weights(file).items()}
    take_weights(module, _linear(tensors, module), str(files[0]))
    return module


def _renamed(name: str) -> str:
    return re.sub(
        r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda found: f"{found[1]}{OLD_NAMES[found[2]]}.", name
    )


def _linear(tensors: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Attention that the first files have as 1x1 convolutions, (o, i, 1, 1), as the (o, i) that it is now."""
    own = module.state_dict()
    return {
        name: value[..., 0, 0]
        if value.ndim == 4 and value.shape[2:] == (1, 1) and name in own and own[name].ndim == 2
        else value
        for name, value in tensors.items()
    }
