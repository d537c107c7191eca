"""The scale of guidance as an input of a class of the library: its own where it has one, else one of ours beside its time.

Either starts at zero, so that the network starts as the one without the input, whose weights it takes.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layers import Linear, PositionalEmbedding

CHANNELS = 256  # of the scale's embedding, as of the library's times
EMBEDDERS = ("timestep_embedder", "time_embedding")  # what the library calls its networks on the time
OWN = ("guidance_embedder.linear_2.", "cond_proj.")  # where its own inputs for the scale end


class GuidanceInput(nn.Module):
    """Adds to what the library's networks make of the time, while a scale is set.

    Args:
        model: of the library, which is changed in place; no name of its weights is.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        found = [module for name, module in model.named_modules() if name.rpartition(".")[2] in EMBEDDERS]
        self.embedding = PositionalEmbedding(CHANNELS)
        self.linear = Linear(CHANNELS, found[0].linear_2.out_features, bias=False, gain=0.0)  # type: ignore[union-attr, arg-type]
        self.added: Tensor | None = None
        for module in found:
            module.register_forward_hook(_Adding(self))

    def forward(self, scale: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        output: Tensor = self.linear(self.embedding(scale).to(self.linear.weight.dtype))
        return output


class _Adding:
    """A hook that is copied with the network it is in."""

    def __init__(self, source: GuidanceInput):
        self.source = source

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output if self.source.added is None else output + self.source.added.to(output.dtype)


@torch.no_grad()
def start_at_zero(model: nn.Module) -> None:
    """The library's own input, in place."""
    for name, weight in model.named_parameters():
        if any(f".{part}" in f".{name}" for part in OWN):
            weight.zero_()


def is_of_input(name: str) -> bool:
    """Whether a weight is of the input for the scale, the library's or ours."""
    return any(f".{part}" in f".{name}" for part in ("guidance.", "guidance_embedder.", "cond_proj."))
