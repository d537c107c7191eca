"""Attention with the fused kernel for its value."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from .forward_mode import at_least_float32, dual, mode


def attention(
    q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads m d"], v: Float[Tensor, "b heads m d"]
) -> Float[Tensor, "b heads n d"]:
    """softmax(q k^T / sqrt(d)) v. The fused kernel stores no (n, m) matrix; a tangent needs some while it lasts."""
    how = mode()
    if how == "native":
        return F.scaled_dot_product_attention(q, k, v)
    scale = q.shape[-1] ** -0.5
    if how == "plain":
        return torch.softmax((q * scale) @ k.transpose(-2, -1), -1).to(v.dtype) @ v
    shape = q.shape
    (q, dq), (k, dk), (v, dv) = (forward_ad.unpack_dual(each) for each in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v)
    if dq is None and dk is None and dv is None:
        return y
    with torch.no_grad():
        dq, dk, dv = (
            torch.zeros_like(each) if d is None else d.to(each.dtype) for each, d in ((q, dq), (k, dk), (v, dv))
        )
        q, dq = (scale * each.flatten(0, 1) for each in (q, dq))
        k, dk = (each.flatten(0, 1).mT for each in (k, dk))
        v, dv = (each.flatten(0, 1) for each in (v, dv))
        p = torch.softmax(at_least_float32(q @ k), -1)
        ds = at_least_float32(torch.baddbmm(q @ dk, dq, k))
        dp = torch._softmax_backward_data(ds, p, -1, p.dtype)
        dy = torch.baddbmm(p.to(v.dtype) @ dv, dp.to(v.dtype), v).reshape(shape)
    return dual(y, dy)
