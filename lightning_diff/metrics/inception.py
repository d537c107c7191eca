"""The network of the FID: torch-fidelity's Inception-v3, with TensorFlow's graph of 2015-12-05 and its resize.

Its 2048 features give the "FID" of the papers (Heusel et al. 2017, arXiv 1706.08500); nothing else here may be called so. The
weights are not part of this project: they are fetched once, or a file is given. Programs differ in the resize, too: here it is
TensorFlow 1's bilinear one (no half-pixel centres, no antialiasing), as in EDM.

Measured once with equal random weights, against the graph that this project had written itself from the description (float32,
images of 8, 32, 64 and 299 pixels): features equal to 2.6e-7 of their norm, and bit for bit where nothing is resized; 1.4e-6 on
400x320, where torch-fidelity rounds the positions of the resize to float32.
"""

import hashlib
from io import BytesIO
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..foundation.extras import required
from .published_weights import HINT, PublishedWeights

SPACE = "fid_inception"
WEIGHTS = PublishedWeights(
    SPACE,
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "LIGHTNING_DIFF_INCEPTION",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
MODULE = "torch_fidelity.feature_extractor_inceptionv3"


class Inception:
    """Images in [-1, 1] of any size, grey or RGB -> 2048 features, float32.

    Args:
        path: torch-fidelity's or pytorch-fid's weights file (they are one file); None for $LIGHTNING_DIFF_INCEPTION, or the
            caches', where it is fetched if it is not there.
        device: where it computes.

    Raises:
        UserError: no such file, another file (by its sha256), or no torch-fidelity.
    """

    name = SPACE
    dim = 2048

    def __init__(self, path: str | Path | None = None, device: torch.device | str = "cpu"):
        content = WEIGHTS.read(path)
        self.hash = hashlib.sha256(content).hexdigest()[:12]
        self.net = _network(content).to(device)

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2048"]:
        """Images become bytes first, round(127.5 x + 127.5), since the real ones were bytes."""
        pixels = (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
        features: tuple[Tensor] = self.net(pixels.expand(-1, 3, -1, -1))
        return features[0]

    @classmethod
    def refuse_missing(cls) -> None:
        """UserError where its weights or its library are missing; the network is not built."""
        _library()
        WEIGHTS.read()


def _library() -> ModuleType:
    return required(MODULE, f"feature space '{SPACE}'", HINT)


def _network(content: bytes) -> nn.Module:
    """torch-fidelity's extractor, frozen: bytes (n, 3, h, w) -> a tuple with the 2048 features.

    torch-fidelity unpickles the file with everything that pickle can do, so that it must be the very one: `read` has checked it.
    """
    network: nn.Module = _library().FeatureExtractorInceptionV3(
        Inception.name, [str(Inception.dim)], feature_extractor_weights_path=BytesIO(content)
    )
    return network
