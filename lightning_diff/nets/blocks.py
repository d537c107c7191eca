"""The parts that a network repeats: gathered one at a time where it is sharded, compiled once for all that are alike."""

from collections.abc import Iterator

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks that a network itself names (`repeated`), or the members of its outermost ModuleLists; those with weights.

    Adapters of a weight are none.
    """
    if (own := getattr(network, "repeated", None)) is not None:
        yield from (block for block in own if any(True for _ in block.parameters()))
        return
    for child in network.children():
        if isinstance(child, ParametrizationList):
            continue
        if isinstance(child, nn.ModuleList):
            yield from (member for member in child if any(True for _ in member.parameters()))
        else:
            yield from blocks(child)
