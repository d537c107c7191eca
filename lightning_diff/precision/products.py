"""Matrix products in low precision, in software or by a kernel, with weights that are replaced in place.

Each holds one layer's weight as (N, kh, kw, C), a matrix (N, K) whose reduction axis is the window's pixels and their channels.
That order makes a convolution cheap: blocks of 16 channels lie inside a pixel, so that pixels are rounded once and not once for
each window that they are in.

Scales of activations are those of one sample, never of the batch, so that a picture does not depend on what it is computed with:
FP8 and int8 have one for each row (token, pixel), or for each sample where windows share pixels; NVFP4's float32 scale is of one
sample. A hardware kernel for NVFP4 takes one for the whole batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from . import formats


class Product(nn.Module):
    """What the kinds share: the weight's shape, and windows by way of rows.

    Args:
        shape: (N, kh, kw, C) of the weight.
        padding: pixels of zeros around the image.
        device: where the weight is held.
    """

    def __init__(self, shape: tuple[int, int, int, int], padding: int, device: torch.device):
        super().__init__()
        self.shape, self.padding, self.device = shape, padding, device

    def set_weight(self, weight: Float[Tensor, "n kh kw c"]) -> None:
        """Round the weight into the tensors that are there."""
        raise NotImplementedError

    def rows(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b n"]:
        """x weight^T, for a kernel of one pixel."""
        raise NotImplementedError

    def windows(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 n"]:
        """The convolution, channels last."""
        return self.rows(unfold(x, self.shape, self.padding))

    @property
    def matrix(self) -> tuple[int, int]:
        """(N, K)."""
        n, kh, kw, c = self.shape
        return n, kh * kw * c


class Emulated(Product):
    """Rounds weight and activations and multiplies them in float32: the format's numbers, no gain in speed."""

    weight: Tensor

    def __init__(
        self, shape: tuple[int, int, int, int], padding: int, device: torch.device, round_to: Callable[..., Tensor]
    ):
        super().__init__(shape, padding, device)
        self.round_to = round_to
        # (N, C, kh, kw) in channels-last memory, as F.conv2d takes it, without a copy at each call
        self.register_buffer("weight", torch.zeros(shape, device=device).permute(0, 3, 1, 2), persistent=False)

    def set_weight(self, weight: Float[Tensor, "n kh kw c"]) -> None:
        self.weight.copy_(self.round_to(weight.float().flatten(1)).reshape(self.shape).permute(0, 3, 1, 2))

    def rows(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b n"]:
        amax = formats.sample_amax(x) if self.round_to is formats.nvfp4_round else None
        return F.linear(self.round_to(x.float(), amax), self.weight.flatten(1))

    def windows(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 n"]:
        rounded = self.round_to(x.float(), formats.sample_amax(x)).permute(0, 3, 1, 2)
        return F.conv2d(rounded, self.weight, padding=self.padding).permute(0, 2, 3, 1)


class Int8(Product):
    """int8 times int8 into int32 by `torch._int_mm`, on CPUs and on NVIDIA GPUs."""

    codes: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, int, int, int], padding: int, device: torch.device):
        super().__init__(shape, padding, device)
        n, k = self.matrix
        self.register_buffer("codes", torch.zeros(n, k, dtype=torch.int8, device=device), persistent=False)
        self.register_buffer("scale", torch.ones(n, device=device), persistent=False)

    def set_weight(self, weight: Float[Tensor, "n kh kw c"]) -> None:
        matrix = weight.float().flatten(1)
        codes, scale = formats.int8_quantise(matrix, formats.row_amax(matrix))
        self.codes.copy_(codes)
        self.scale.copy_(scale[:, 0])

    def rows(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b n"]:
        return self._product(*formats.int8_quantise(x, formats.row_amax(x)))

    def windows(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 n"]:
        codes, scale = formats.int8_quantise(x, formats.sample_amax(x))
        return self._product(unfold(codes, self.shape, self.padding), scale)

    def _product(self, codes: Tensor, scale: Tensor) -> Tensor:
        total = _at_least_rows(torch._int_mm, codes.flatten(0, -2), self.codes.T)
        wide: Tensor = total.unflatten(0, codes.shape[:-1]).float()
        return wide.mul_(scale).mul_(self.scale)


class Float8(Product):
    """FP8 by `torch._scaled_mm` with a scale for each row, on GPUs of compute capability 8.9 and later."""

    codes: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, int, int, int], padding: int, device: torch.device):
        super().__init__(shape, padding, device)
        n, k = self.matrix
        # zeros does not know float8 on every device; a cast does
        self.register_buffer("codes", torch.zeros(n, k, device=device).to(torch.float8_e4m3fn), persistent=False)
        self.register_buffer("scale", torch.ones(1, n, device=device), persistent=False)

    def set_weight(self, weight: Float[Tensor, "n kh kw c"]) -> None:
        matrix = weight.float().flatten(1)
        codes, scale = formats.fp8_quantise(matrix, formats.row_amax(matrix))
        self.codes.copy_(codes)
        self.scale.copy_(scale.T)

    def rows(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b n"]:
        return self._product(*formats.fp8_quantise(x, formats.row_amax(x)))

    def windows(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 n"]:
        codes, scale = formats.fp8_quantise(x, formats.sample_amax(x))
        # bytes, because few operations know float8
        window = unfold(codes.view(torch.uint8), self.shape, self.padding).view(torch.float8_e4m3fn)
        return self._product(window, scale)

    def _product(self, codes: Tensor, scale: Tensor) -> Tensor:
        flat, scales = codes.flatten(0, -2), scale.expand(*codes.shape[:-1], 1).reshape(-1, 1)
        # the row-wise kernel gives bfloat16 only
        y = torch._scaled_mm(flat, self.codes.T, scales, self.scale, out_dtype=torch.bfloat16, use_fast_accum=True)
        rows: Tensor = y.unflatten(0, codes.shape[:-1])
        return rows


class TorchAO(Product):
    """A torchao configuration on a bfloat16 matrix; quantised anew in a scratch layer, then copied into place."""

    def __init__(self, shape: tuple[int, int, int, int], padding: int, device: torch.device, configuration: object):
        super().__init__(shape, padding, device)
        self.configuration = configuration
        n, k = self.matrix
        self.weight = nn.Parameter(self._quantised(torch.ones(n, k, device=device)), requires_grad=False)

    def set_weight(self, weight: Float[Tensor, "n kh kw c"]) -> None:
        self.weight.copy_(self._quantised(weight.flatten(1)))

    def rows(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b n"]:
        return F.linear(x.to(torch.bfloat16), self.weight)

    def _quantised(self, matrix: Tensor) -> Tensor:
        from torchao.quantization import quantize_

        n, k = self.matrix
        scratch = nn.Linear(k, n, bias=False, device=self.device, dtype=torch.bfloat16)
        scratch.weight.data.copy_(matrix)
        quantize_(scratch, self.configuration)
        return scratch.weight.data


def unfold(x: Tensor, shape: tuple[int, int, int, int], padding: int) -> Tensor:
    """(B, H, W, C) -> (B, H2, W2, kh kw C): every window as a row, in the order of a weight (N, kh, kw, C)."""
    _, kh, kw, _ = shape
    padded = F.pad(x, (0, 0, padding, padding, padding, padding))
    return padded.unfold(1, kh, 1).unfold(2, kw, 1).permute(0, 1, 2, 4, 5, 3).flatten(3)


def _at_least_rows(product: Callable[..., Tensor], x: Tensor, weight: Tensor, rows: int = 32) -> Tensor:
    """CUDA's int8 product refuses 16 rows and fewer."""
    if len(x) >= rows:
        return product(x, weight)
    return product(F.pad(x, (0, 0, 0, rows - len(x))), weight)[: len(x)]
