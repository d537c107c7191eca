"""The network of the FID: torch-fidelity's Inception-v3, with TensorFlow's graph of 2015-12-05 and its resize.

Its 2048 features give the "FID" of the papers (Heusel et al. 2017, arXiv 1706.08500); nothing else here may be called so. The
weights are not part of this project: a file has to be given. Programs differ in the resize, too: here it is TensorFlow 1's
bilinear one (no half-pixel centres, no antialiasing), as in EDM.

Measured once with equal random weights, against the graph that this project had written itself from the description (float32,
images of 8, 32, 64 and 299 pixels): features equal to 2.6e-7 of their norm, and bit for bit where nothing is resized; 1.4e-6 on
400x320, where torch-fidelity rounds the positions of the resize to float32.
"""

import hashlib
import os
from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..foundation.errors import UserError
from ..foundation.extras import required

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
ENVIRONMENT = "LIGHTNING_DIFF_INCEPTION"
WHERE = (
    "get weights-inception-2015-12-05-6726825d.pth from https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0 "
    f"and set {ENVIRONMENT} to its path"
)


class Inception:
    """Images in [-1, 1] of any size, grey or RGB -> 2048 features, float32.

    Args:
        path: torch-fidelity's or pytorch-fid's weights file (they are one file); None for $LIGHTNING_DIFF_INCEPTION.
        device: where it computes.

    Raises:
        UserError: no path, no such file, another file (by its sha256), or no torch-fidelity.
    """

    name = "fid_inception"
    dim = 2048

    def __init__(self, path: str | Path | None = None, device: torch.device | str = "cpu"):
        content = _checked(path or os.environ.get(ENVIRONMENT))
        self.hash = hashlib.sha256(content).hexdigest()[:12]
        self.net = _network(content).to(device)

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2048"]:
        """Images become bytes first, round(127.5 x + 127.5), since the real ones were bytes."""
        pixels = (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
        features: tuple[Tensor] = self.net(pixels.expand(-1, 3, -1, -1))
        return features[0]


def _checked(path: str | Path | None) -> bytes:
    """The weights file, whole. torch-fidelity unpickles it with everything that pickle can do, so that it must be the very one."""
    if not path:
        raise UserError(f"feature space 'fid_inception' needs a weights file: {WHERE}, or use another feature space")
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such Inception weights file; {WHERE}")
    content = Path(path).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise UserError(f"{path}: sha256 begins with {digest[:8]}, the FID's Inception with {SHA256[:8]}; {WHERE}")
    return content


def _network(content: bytes) -> nn.Module:
    """torch-fidelity's extractor, frozen: bytes (n, 3, h, w) -> a tuple with the 2048 features."""
    name, hint = "torch_fidelity.feature_extractor_inceptionv3", ", with torchvision from where torch came from"
    library = required(name, "feature space 'fid_inception'", hint)
    network: nn.Module = library.FeatureExtractorInceptionV3(
        Inception.name, [str(Inception.dim)], feature_extractor_weights_path=BytesIO(content)
    )
    return network
