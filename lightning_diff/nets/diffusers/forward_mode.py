"""Forward-mode derivatives through the library's layers, which know nothing of them.

Torch's fused attention has no rule; its plain one has. Group norm has one, which fails on an input that is not laid out in order,
such as what attention over pixels leaves. Layer norm with weights has one that torch does not compile. All three are mended in
forward mode alone: elsewhere every kernel is the library's own.
"""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ... import tangent


class GroupNorm(nn.GroupNorm):
    """Torch's own, and in forward mode `tangent`'s."""

    def forward(self, input: Tensor) -> Tensor:
        if tangent.mode() == "native":
            return super().forward(input)
        return tangent.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(nn.LayerNorm):
    """Torch's own over the last axis, and in forward mode `tangent`'s."""

    def forward(self, input: Tensor) -> Tensor:
        if tangent.mode() == "native":
            return super().forward(input)
        output = tangent.layer_norm(input, self.eps) * self.weight
        return output if self.bias is None else output + self.bias


def prepare(model: nn.Module) -> None:
    """Give a network's norms their forward mode, in place; no name or weight changes."""
    for module in model.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = GroupNorm
        elif type(module) is nn.LayerNorm and module.elementwise_affine and len(module.normalized_shape) == 1:
            module.__class__ = LayerNorm


def attention() -> AbstractContextManager[object]:
    """Within it attention has a forward-mode derivative, if one is being taken; it then needs memory for its matrix."""
    return nullcontext() if tangent.mode() == "native" else sdpa_kernel(SDPBackend.MATH)
