"""Backends of torch.compile for tests: one that counts, and one that overwrites what it returned, as CUDA graphs do."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import jaxtyping
import torch
from functorch.compile import make_boxed_func
from lightning.pytorch import Callback
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch.fx import GraphModule

BY_TORCH = "torch._dynamo.graph_break()"  # what torch's own optimisers call before their step


class Counting:
    """Runs each graph as it is, and keeps the shapes of its inputs that are no weights."""

    def __init__(self) -> None:
        self.graphs: list[list[tuple[int, ...]]] = []

    def __call__(self, graph: GraphModule, inputs: Sequence[object]) -> Callable[..., object]:
        assert all(isinstance(value, torch.Tensor) for value in inputs if not isinstance(value, torch.SymInt))
        self.graphs.append(
            [tuple(v.shape) for v in inputs if isinstance(v, torch.Tensor) and not isinstance(v, torch.nn.Parameter)]
        )
        return graph.forward


class Replaying:
    """Graphs whose outputs, saved activations and gradients included, become NaN when the next step begins.

    A step begins where `torch.compiler.cudagraph_mark_step_begin` is called; from there on the memory of a CUDA graph may be
    written to again.
    """

    def __init__(self) -> None:
        self.handed_out: list[
            torch.UntypedStorage
        ] = []  # storages: a reference to a tensor would keep autograd from taking it
        self.steps = 0

    def __call__(self, graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., object]:
        compiler = aot_autograd(fw_compiler=self._compiled, bw_compiler=self._compiled)
        compiled: Callable[..., object] = compiler(graph, inputs)
        return compiled

    def _compiled(self, graph: GraphModule, inputs: Sequence[object]) -> Callable[..., object]:
        return make_boxed_func(partial(self._run, graph))

    def _run(self, graph: GraphModule, *inputs: object) -> object:
        own = {v.untyped_storage().data_ptr() for v in inputs if isinstance(v, torch.Tensor)}
        outputs = graph(*inputs)
        for value in outputs:
            if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() not in own:
                self.handed_out.append(value.untyped_storage())
        return outputs

    def begin_step(self) -> None:
        self.steps += 1
        for storage in self.handed_out:
            torch.empty(0, dtype=torch.uint8).set_(storage).fill_(255)  # NaN in every float
        self.handed_out.clear()


COUNTING, REPLAYING = Counting(), Replaying()
torch._dynamo.register_backend(COUNTING, name="counting")
torch._dynamo.register_backend(REPLAYING, name="replaying")


class Graphs(Callback):
    """How many graphs there were after each micro-batch of the run under way."""

    after: ClassVar[list[int]] = []

    def on_train_start(self, *_: object) -> None:
        self.after.clear()

    def on_train_batch_end(self, *_: object) -> None:
        self.after.append(len(COUNTING.graphs))


@contextmanager
def fresh():
    """Nothing compiled before, none of the annotations checked, which cannot be traced; afterwards as it was."""
    limits = torch._dynamo.config.recompile_limit, torch._dynamo.config.accumulated_recompile_limit
    torch._dynamo.reset()
    counters.clear()
    COUNTING.graphs.clear()
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
        torch._dynamo.reset()
        torch._dynamo.config.recompile_limit, torch._dynamo.config.accumulated_recompile_limit = limits


def graph_breaks() -> list[str]:
    """Reasons of the breaks so far, but for torch's own in front of an optimiser's step."""
    return [reason for reason in counters["graph_break"] if BY_TORCH not in reason]
