"""Jacobian-vector products through networks: value and tangent in one pass, and the layer functions that make it fast.

`jvp` runs a function once in forward mode. Its value keeps its autograd graph; its tangent has none, as consistency
training wants it (sCM, arXiv 2410.11081, puts a stop-gradient on the tangent).

Torch's own forward mode runs three convolutions for one (the third for a zero weight tangent), has no rule for fused
attention, takes group norm through slow primitives, and records the tangent for a backward pass that never comes. So
networks here call the functions of this folder, and each of them runs in one of three ways:

    native   no forward mode: torch's fastest kernel.
    carry    inside `jvp`: the value as in native, from the primal alone; the tangent beside it, without a graph. Where
             a Jacobian is symmetric (normalisation, softmax, activations), torch's backward kernel is the rule. Under
             torch.compile, too: what is written out here is traced, where rules of an autograd.Function would be lost.
    plain    inside anybody else's forward mode (torch.func.jvp, dual_level): elementary operations that torch
             differentiates in every mode and to every order.
"""

from .bilinear import conv2d, linear
from .forward_mode import jvp, mode
from .normalisation import group_norm, layer_norm, pixel_norm, unit_rms
from .pointwise import clamp, dropout, gelu, modulate, residual, silu
from .softmax_attention import attention

__all__ = [
    "attention",
    "clamp",
    "conv2d",
    "dropout",
    "gelu",
    "group_norm",
    "jvp",
    "layer_norm",
    "linear",
    "mode",
    "modulate",
    "pixel_norm",
    "residual",
    "silu",
    "unit_rms",
]
