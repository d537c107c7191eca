"""The network of FD-DINOv2: Meta's ViT-L/14, without registers, as EDM2 and dgm-eval use it.

Its 1024 features, the class token after the last normalisation, give the Fréchet distance of Stein et al. 2023 (arXiv
2306.04675), which EDM2 reports beside the FID. Images become bytes, then 224 x 224 pixels (bicubic, antialiased; EDM2's resize)
with ImageNet's mean and standard deviation.

timm has the network, its parameters named as Meta's. The position embeddings, 37 x 37 in the file, are brought to 16 x 16 here, as
Meta's code does with its offset of 0.1; timm and transformers resize them otherwise, which changes the features. Measured once with
equal random weights (width 64, 4 blocks, 8 images of 64 x 64): the features are those of Meta's own code bit for bit; by timm's way
to resize the embeddings they differ by 8.1e-4 of their norm.
"""

import hashlib
import math
import pickle
import zipfile
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..artifacts.pictures import to_uint8
from ..foundation.errors import UserError
from ..foundation.extras import required
from .published_weights import HINT, PublishedWeights

SPACE = "dinov2"
WEIGHTS = PublishedWeights(
    SPACE,
    "dinov2_vitl14_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "LIGHTNING_DIFF_DINOV2",
)
SIDE, PATCH = 224, 14  # pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels, in [0, 1]


class DinoV2:
    """Images in [-1, 1] of any size, grey or RGB -> 1024 features, float32.

    Args:
        path: Meta's weights file; None for $LIGHTNING_DIFF_DINOV2, or the caches', where it is fetched if it is not there.
        device: where it computes.

    Raises:
        UserError: no such file, another network's, or no timm.
    """

    name = SPACE
    dim = 1024
    architecture: ClassVar[dict[str, int]] = {}  # timm's arguments, in place of ViT-L/14's own

    def __init__(self, path: str | Path | None = None, device: torch.device | str = "cpu"):
        state = _read(file := WEIGHTS.find(path))
        self.hash = _hash(state)
        self.net = _network(file, state, self.architecture).to(device)
        self._mean, self._std = (torch.tensor(x, device=device).reshape(3, 1, 1) for x in (MEAN, STD))

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Images become bytes first, since the real ones were bytes."""
        pixels = to_uint8(images).float().expand(-1, 3, -1, -1)
        if not len(pixels):
            return torch.zeros(0, self.dim, device=pixels.device)
        pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)
        features: Tensor = self.net((pixels / 255 - self._mean) / self._std)
        return features

    @classmethod
    def refuse_missing(cls) -> None:
        """UserError where its weights or its library are missing; the network is not built."""
        _library()
        WEIGHTS.find()


def position_embeddings(table: Float[Tensor, "1 n d"], side: int) -> Float[Tensor, "1 m d"]:
    """Those of the class token and of side x side patches, from those of another square (DINOv2, `interpolate_pos_encoding`).

    The scale is (side + 0.1) over the old side, not the ratio of both, as in the code that the weights were evaluated with.
    """
    old = math.isqrt(table.shape[1] - 1)
    if old == side:
        return table
    square = table[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / old
    patches = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([table[:, :1].float(), patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _library() -> ModuleType:
    return required("timm", f"feature space '{SPACE}'", HINT)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file; no code of it is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as DINOv2's weights ({reason[:120]}); {WEIGHTS.advice}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no table of tensors, as DINOv2's weights are; {WEIGHTS.advice}")
    return state


def _hash(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.contiguous().numpy().data.cast("B"))
    return digest.hexdigest()[:12]


def _network(path: Path, state: dict[str, Tensor], architecture: dict[str, int]) -> nn.Module:
    """timm's ViT-L/14 with these weights, frozen."""
    network: nn.Module = _library().create_model(
        "vit_large_patch14_dinov2", pretrained=False, img_size=SIDE, num_classes=0, **architecture
    )
    weights = {name: value for name, value in state.items() if name != "mask_token"}  # of training alone
    if "pos_embed" in weights and weights["pos_embed"].ndim == 3:
        weights["pos_embed"] = position_embeddings(weights["pos_embed"], SIDE // PATCH)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: is not the weights of DINOv2's ViT-L/14 ({reason[:160]}...); {WEIGHTS.advice}"
        ) from error
    return network.eval().requires_grad_(False)
