"""The U-Net of EDM2 in its final form, configuration G (arXiv 2312.02696, figure 21): nothing in it grows while it trains."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .. import tangent
from .layers import Dropout, check_input, refuse_impossible_levels
from .magnitude import MPConv, MPFourier, MPLinear, mp_cat, mp_silu, mp_sum

Way = Literal["down", "up"]
Resample = Literal["down", "up"] | None


class EDM2(nn.Module):
    """Residual blocks of magnitude-preserving layers at halving resolutions, then back up with what the way down left.

    The published sizes differ by `channels`: 128 (XS, 125 million parameters), 192 (S, 280 million), 256 (M), 320 (L), 384 (XL),
    448 (XXL), on latents (4, 64, 64) or pixels (3, 64, 64) with 1,000 classes. They train with Adam (betas 0.9, 0.99),
    `learning_rate.InverseSqrt`, `weighting.LearnedVariance`, power-function averages and no weight decay (recipe
    imagenet64_edm2_s); weights are normalised after each step (see `magnitude`).

    Args:
        shape: (channels, height, width) of an example; height and width divisible by 2^(len(channel_mult) - 1). It is called with
            any others that are, too: images in buckets.
        num_classes: 0 for an unconditional network, which ignores labels.
        channels: base width.
        channel_mult: width of each resolution over the base width, the finest first.
        noise_mult, embedding_mult: width of the noise features and of the embedding, over the base width; None for the first and
            the largest of `channel_mult`.
        num_blocks: residual blocks per resolution on the way down (one more on the way up).
        attention: resolutions (heights, of `shape`) whose blocks attend; the middle block always does.
        head_width: channels of an attention head; divides the widths of the attending blocks.
        dropout: probability, inside each block.
        label_balance, concat_balance, residual_balance, attention_balance: share of the second part in sums: class against noise
            level, what the way down left against the main path, residual branch, attention.
        clip: activations are kept in [-clip, clip]; None for no limit.
        guided: take a guidance scale as an input, added to the noise features with a gain that starts at 0.

    Not covered: an augmentation vector; adapters and low-precision copies, which know layers with weights as they are used.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int = 0,
        channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        noise_mult: int | None = None,
        embedding_mult: int | None = None,
        num_blocks: int = 3,
        attention: Sequence[int] = (16, 8),
        head_width: int = 64,
        dropout: float = 0.0,
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        residual_balance: float = 0.3,
        attention_balance: float = 0.3,
        clip: float | None = 256.0,
        guided: bool = False,
    ):
        super().__init__()
        refuse_impossible_levels("EDM2", shape, channel_mult, num_blocks)
        self.shape, self.num_classes, self.guided = tuple(shape), num_classes, guided
        self.label_balance, self.concat_balance = label_balance, concat_balance
        widths = [channels * mult for mult in channel_mult]
        noise_width = widths[0] if noise_mult is None else channels * noise_mult
        width = max(widths) if embedding_mult is None else channels * embedding_mult
        self.multiple = 2 ** (len(channel_mult) - 1)  # that sides are divisible by
        self.fourier = MPFourier(noise_width)
        self.noise = MPLinear(noise_width, width)
        self.label = MPLinear(num_classes, width) if num_classes else None
        self.guidance = _Guidance(noise_width, width) if guided else None

        def block(c_in: int, c_out: int, way: Way, attends: bool = False, resample: Resample = None) -> Block:
            heads = _heads(c_out, head_width) if attends else 0
            return Block(c_in, c_out, width, way, resample, heads, dropout, residual_balance, attention_balance, clip)

        self.input = MPConv(shape[0] + 1, widths[0])
        c, skips = widths[0], [widths[0]]
        down: list[Block] = []
        for level, c_out in enumerate(widths):
            attends = shape[1] >> level in attention
            if level > 0:
                down.append(block(c, c, "down", resample="down"))
                skips.append(c)
            for _ in range(num_blocks):
                down.append(block(c, c_out, "down", attends))
                c = c_out
                skips.append(c)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([block(c, c, "up", attends=True), block(c, c, "up")])
        up: list[Block] = []
        for level, c_out in reversed(list(enumerate(widths))):
            attends = shape[1] >> level in attention
            if level < len(widths) - 1:
                up.append(block(c, c, "up", resample="up"))
            for _ in range(num_blocks + 1):
                up.append(block(c + skips.pop(), c_out, "up", attends))
                c = c_out
        self.up = nn.ModuleList(up)
        self.output = MPConv(c, shape[0])
        self.output_gain = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        c_noise: Float[Tensor, " b"],
        label: Int64[Tensor, " b"] | None = None,
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """F(x; c_noise, label, guidance), like x; x has about unit variance."""
        check_input("EDM2", x, self.shape, self.multiple)
        embedding = self._embedding(c_noise, label, guidance)
        h = self.input(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for block in self.up:
            if block.resample is None:
                h = mp_cat(h, skips.pop(), self.concat_balance)
            h = block(h, embedding)
        output: Tensor = self.output(h, self.output_gain)
        return output.to(x.dtype)

    def after_step(self) -> None:
        """Normalise all weights; a training module calls it after each optimiser step."""
        for module in self.modules():
            if isinstance(module, MPLinear | MPConv):
                module.after_step()

    def _embedding(self, c_noise: Tensor, label: Tensor | None, guidance: Tensor | None) -> Tensor:
        """In float32 or wider, whatever autocast says."""
        if guidance is not None and self.guidance is None:
            raise ValueError("this network has no input for a guidance scale; build it with guided=True")
        dtype = self.noise.weight.dtype
        with torch.autocast(c_noise.device.type, enabled=False):
            wide = c_noise.to(torch.promote_types(dtype, torch.float32))
            embedding: Tensor = self.noise(self.fourier(wide).to(dtype))
            if self.label is not None:
                classes = c_noise.new_zeros(len(c_noise), self.num_classes)
                if label is not None:
                    classes = F.one_hot(label, self.num_classes + 1)[:, :-1] * math.sqrt(self.num_classes)
                embedding = mp_sum(embedding, self.label(classes.to(dtype)), self.label_balance)
            if self.guidance is not None:
                scale = torch.ones_like(wide) if guidance is None else guidance.to(wide.dtype)
                embedding = embedding + self.guidance(scale)
            return mp_silu(embedding)


class Block(nn.Module):
    """Residual block: resample, normalise; silu, conv, embedding, silu, dropout, conv; attention, if heads > 0.

    On the way down the main path changes its width and is normalised before the branch, on the way up its width changes after it.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding_channels: int,
        way: Way,
        resample: Resample,
        heads: int,
        dropout: float,
        residual_balance: float,
        attention_balance: float,
        clip: float | None,
    ):
        super().__init__()
        self.way, self.resample, self.heads, self.clip = way, resample, heads, clip
        self.residual_balance, self.attention_balance = residual_balance, attention_balance
        self.embedding_gain = nn.Parameter(torch.zeros(()))
        self.conv0 = MPConv(c_out if way == "down" else c_in, c_out)
        self.embedding = MPLinear(embedding_channels, c_out)
        self.dropout = Dropout(dropout)
        self.conv1 = MPConv(c_out, c_out)
        self.skip = MPConv(c_in, c_out, kernel=1) if c_in != c_out else None
        if heads:
            self.qkv = MPConv(c_out, 3 * c_out, kernel=1)
            self.proj = MPConv(c_out, c_out, kernel=1)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b d h2 w2"]:
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.way == "down":
            x = tangent.unit_rms(x if self.skip is None else self.skip(x), dim=1)
        y = self.conv0(mp_silu(x))
        with torch.autocast(embedding.device.type, enabled=False):
            scale = self.embedding(embedding, self.embedding_gain) + 1
        scale = scale[..., None, None].to(y.dtype)
        y = self.conv1(self.dropout(mp_silu(tangent.modulate(y, scale, torch.zeros_like(scale)))))
        if self.way == "up" and self.skip is not None:
            x = self.skip(x)
        x = mp_sum(x, y, self.residual_balance)
        if self.heads:
            x = mp_sum(x, self._attended(x), self.attention_balance)
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def _attended(self, x: Tensor) -> Tensor:
        """Cosine attention: queries, keys and values of mean square one."""
        parts = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).permute(1, 0, 2, 4, 3)
        q, k, v = tangent.unit_rms(parts, dim=-1)
        y = tangent.attention(q, k, v).transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])
        output: Tensor = self.proj(y)
        return output


class _Guidance(nn.Module):
    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.fourier, self.linear = MPFourier(channels), MPLinear(channels, out_channels)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, scale: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        output: Tensor = self.linear(self.fourier(scale).to(self.linear.weight.dtype), self.gain)
        return output


def _heads(channels: int, head_width: int) -> int:
    if head_width < 1 or channels % head_width:
        raise ValueError(
            f"EDM2: head_width must divide the {channels} channels of a block that attends, got {head_width}"
        )
    return channels // head_width
