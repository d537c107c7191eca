"""Forward-mode derivatives through the library's layers, which know nothing of them.

Torch's fused attention has no rule; its plain one has. Group norm has one, which fails on an input that is not laid out in order,
such as what attention over pixels leaves. Both are mended in forward mode alone: elsewhere every kernel is the library's own.
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


def prepare(model: nn.Module) -> None:
    """Give a network's group norms their forward mode, in place; no name or weight changes."""
    for module in model.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = GroupNorm


def attention() -> AbstractContextManager[object]:
    """Within it attention has a forward-mode derivative, if one is being taken; it then needs memory for its matrix."""
    return nullcontext() if tangent.mode() == "native" else sdpa_kernel(SDPBackend.MATH)
