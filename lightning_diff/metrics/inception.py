"""The network of the FID: Inception-v3 as TensorFlow's 2015-12-05 graph computes it, with that graph's resize.

Its 2048 features give the "FID" of the papers (Heusel et al. 2017); nothing else here may be called so. The weights
are not part of this project: a file has to be given. Against torchvision's Inception-v3 the graph differs in three
things: average pools leave the padding out, the last block pools by the maximum, and there are 1008 classes. Programs
also differ in the resize: here it is TensorFlow 1's bilinear one (no half-pixel centres, no antialiasing), as in EDM
and torch-fidelity.
"""

import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..foundation.errors import UserError

SHA256 = "6726825d"  # how the file's sha256 begins, as its published name says
ENVIRONMENT = "LIGHTNING_DIFF_INCEPTION"
WHERE = (
    "get pt_inception-2015-12-05-6726825d.pth from https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights "
    f"and set {ENVIRONMENT} to its path"
)

Conv = tuple[str, int, int | tuple[int, int]]  # name, output channels, kernel


class Inception(nn.Module):
    """Images in [-1, 1] of any size, grey or RGB -> 2048 features; random weights until some are loaded."""

    name = "inception"
    dim = 2048
    hash = "untrained"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _ConvNormReLU(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _ConvNormReLU(32, 32, 3)
        self.Conv2d_2b_3x3 = _ConvNormReLU(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _ConvNormReLU(64, 80, 1)
        self.Conv2d_4a_3x3 = _ConvNormReLU(80, 192, 3)
        self.Mixed_5b = _block_35(192, pool=32)
        self.Mixed_5c = _block_35(256, pool=64)
        self.Mixed_5d = _block_35(288, pool=64)
        self.Mixed_6a = _Mixed(
            288,
            [
                [("branch3x3", 384, 3)],
                [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
            ],
            stride=2,
        )
        self.Mixed_6b = _block_17(128)
        self.Mixed_6c = _block_17(160)
        self.Mixed_6d = _block_17(160)
        self.Mixed_6e = _block_17(192)
        self.Mixed_7a = _Mixed(
            768,
            [
                [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
                [
                    ("branch7x7x3_1", 192, 1),
                    ("branch7x7x3_2", 192, (1, 7)),
                    ("branch7x7x3_3", 192, (7, 1)),
                    ("branch7x7x3_4", 192, 3),
                ],
            ],
            stride=2,
        )
        self.Mixed_7b = _block_8(1280, pool="average")
        self.Mixed_7c = _block_8(2048, pool="maximum")
        self.fc = nn.Linear(2048, 1008)  # in the file; the FID does not use it

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """2048 features, float32. Images become bytes first, round(127.5 x + 127.5), since the real ones were bytes."""
        x = (images.float() * 127.5 + 128).clamp(0, 255).floor()
        x = (resize(x.expand(-1, 3, -1, -1), 299) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def resize(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c side side"]:
    """TensorFlow 1's bilinear resize: output pixel i reads input position i * (input side / output side)."""
    rows, columns = (_interpolation(length, side).to(x) for length in x.shape[2:])
    return rows @ x @ columns.T


def _interpolation(length: int, side: int) -> Float[Tensor, "side length"]:
    position = torch.arange(side, dtype=torch.float64) * length / side
    low = position.floor().long()
    high = (low + 1).clamp(max=length - 1)
    matrix = torch.zeros(side, length, dtype=torch.float64)
    matrix.scatter_add_(1, low[:, None], (1 - (position - low))[:, None])
    return matrix.scatter_add_(1, high[:, None], (position - low)[:, None])


class _ConvNormReLU(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Mixed(nn.Module):
    """Parallel chains of convolutions and a pool, concatenated. A list within a chain is a fork, itself concatenated.

    With stride 2 the last convolution of each chain halves the size, as does the pool, which then has no convolution.
    """

    def __init__(
        self,
        inputs: int,
        chains: Sequence[Sequence[Conv | list[Conv]]],
        stride: int = 1,
        pool: str = "maximum",
        pool_outputs: int = 0,
    ):
        super().__init__()
        self.stride, self.pool = stride, pool
        self.chains: list[list[list[str]]] = []
        for chain in chains:
            width, steps = inputs, []
            for i, step in enumerate(chain):
                fork = step if isinstance(step, list) else [step]
                last_stride = stride if i == len(chain) - 1 else 1
                for name, outputs, kernel in fork:
                    height, breadth = (kernel, kernel) if isinstance(kernel, int) else kernel
                    padding = (height // 2, breadth // 2) if last_stride == 1 else 0
                    self.add_module(name, _ConvNormReLU(width, outputs, kernel, last_stride, padding))
                width = sum(outputs for _, outputs, _ in fork)
                steps.append([name for name, _, _ in fork])
            self.chains.append(steps)
        self.branch_pool = _ConvNormReLU(inputs, pool_outputs, 1) if pool_outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for chain in self.chains:
            y = x
            for fork in chain:
                y = torch.cat([self.get_submodule(name)(y) for name in fork], dim=1)
            parts.append(y)
        padding = 1 if self.stride == 1 else 0
        if self.pool == "average":
            pooled = F.avg_pool2d(x, 3, self.stride, padding, count_include_pad=False)
        else:
            pooled = F.max_pool2d(x, 3, self.stride, padding)
        return torch.cat([*parts, self.branch_pool(pooled)], dim=1)


def _block_35(inputs: int, pool: int) -> _Mixed:
    """The blocks at 35x35."""
    chains: list[list[Conv | list[Conv]]] = [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ]
    return _Mixed(inputs, chains, pool="average", pool_outputs=pool)


def _block_17(width: int) -> _Mixed:
    """The blocks at 17x17, with convolutions factored into rows and columns."""
    row, column = (1, 7), (7, 1)
    chains: list[list[Conv | list[Conv]]] = [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", width, 1), ("branch7x7_2", width, row), ("branch7x7_3", 192, column)],
        [
            ("branch7x7dbl_1", width, 1),
            ("branch7x7dbl_2", width, column),
            ("branch7x7dbl_3", width, row),
            ("branch7x7dbl_4", width, column),
            ("branch7x7dbl_5", 192, row),
        ],
    ]
    return _Mixed(768, chains, pool="average", pool_outputs=192)


def _block_8(inputs: int, pool: str) -> _Mixed:
    """The blocks at 8x8, whose chains end in a row and a column side by side."""
    row, column = (1, 3), (3, 1)
    chains: list[list[Conv | list[Conv]]] = [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), [("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column)]],
        [
            ("branch3x3dbl_1", 448, 1),
            ("branch3x3dbl_2", 384, 3),
            [("branch3x3dbl_3a", 384, row), ("branch3x3dbl_3b", 384, column)],
        ],
    ]
    return _Mixed(inputs, chains, pool=pool, pool_outputs=192)


def load_inception(path: str | Path | None = None, device: torch.device | str = "cpu") -> Inception:
    """The FID's network with its weights, frozen.

    Args:
        path: pytorch-fid's or torch-fidelity's weights file (they are one file); None for $LIGHTNING_DIFF_INCEPTION.
        device: where it goes.

    Raises:
        UserError: no path, no such file, or another file (by its sha256).
    """
    path = path or os.environ.get(ENVIRONMENT)
    if not path:
        raise UserError(f"feature space 'inception' needs a weights file: {WHERE}, or use another feature space")
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such Inception weights file; {WHERE}")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if not digest.startswith(SHA256):
        raise UserError(f"{path}: sha256 begins with {digest[:8]}, the FID's Inception with {SHA256}; {WHERE}")
    net = Inception()
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        # The file is older than BatchNorm's counters, which nothing reads here.
        counters = {name: value for name, value in net.state_dict().items() if name.endswith("num_batches_tracked")}
        net.load_state_dict(counters | dict(weights))
    except (RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path}: not the weights of the FID's Inception ({str(error).splitlines()[0]}); {WHERE}"
        ) from None
    net.hash = digest[:12]
    return net.to(device).eval().requires_grad_(False)
