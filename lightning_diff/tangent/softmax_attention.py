"""Attention with the fused kernel for its value."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from .forward_mode import at_least_float32, dual, mode

FEW = 64  # tokens up to which a CPU's attention in bfloat16 is computed in float32


def attention(
    q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads m d"], v: Float[Tensor, "b heads m d"]
) -> Float[Tensor, "b heads n d"]:
    """softmax(q k^T / sqrt(d)) v. The fused kernel stores no (n, m) matrix; a tangent needs some while it lasts.

    Logits and softmax are float32 in the tangent even where q and k are narrower, as they are inside the fused kernel: rounded to
    16 bits, logits of 8 are off by 1/64, and with them the weights by as much.
    """
    how = mode()
    if how == "native":
        return _few_in_float32(q, k, v) if _are_few(q, k, v) else F.scaled_dot_product_attention(q, k, v)
    scale = q.shape[-1] ** -0.5
    if how == "plain":
        with torch.autocast(q.device.type, enabled=False):  # which would round the products again
            logits = (at_least_float32(q) * scale) @ at_least_float32(k).transpose(-2, -1)
        return torch.softmax(logits, -1).to(v.dtype) @ v
    shape = q.shape
    (q, dq), (k, dk), (v, dv) = (forward_ad.unpack_dual(each) for each in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v)
    if dq is None and dk is None and dv is None:
        return y
    with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
        dq, dk, dv = (torch.zeros_like(each) if d is None else d for each, d in ((q, dq), (k, dk), (v, dv)))
        q, dq = (scale * at_least_float32(each).flatten(0, 1) for each in (q, dq))
        k, dk = (at_least_float32(each).flatten(0, 1).mT for each in (k, dk))
        v, dv = (each.to(y.dtype).flatten(0, 1) for each in (v, dv))
        p = torch.softmax(q @ k, -1)
        dp = torch._softmax_backward_data(torch.baddbmm(q @ dk, dq, k), p, -1, p.dtype)
        dy = torch.baddbmm(p.to(v.dtype) @ dv, dp.to(v.dtype), v).reshape(shape)
    return dual(y, dy)


def _are_few(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether these are few tokens in bfloat16 on a CPU.

    Its fused kernel for 16 bits costs as much for 16 tokens as for 64, in the backward pass above all. In float32, conversions
    included, forward and backward take 0.13 (16 tokens), 0.3 to 0.5 (64), 0.8 to 0.9 (256) and 1.2 (1,024) of its time, measured
    with heads of 32 and 64 numbers.
    """
    narrow = q.device.type == "cpu" and q.dtype == k.dtype == v.dtype == torch.bfloat16
    return narrow and max(q.shape[-2], k.shape[-2]) <= FEW


def _few_in_float32(
    q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads m d"], v: Float[Tensor, "b heads m d"]
) -> Float[Tensor, "b heads n d"]:
    """The same with weights that are not rounded to 16 bits."""
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(v.dtype)
