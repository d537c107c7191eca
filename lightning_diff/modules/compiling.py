"""What of a training torch compiles: the repeated blocks of its network, or more, in place: no name in a checkpoint changes."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from ..foundation.errors import UserError
from ..nets.blocks import blocks

P = ParamSpec("P")
R = TypeVar("R")

MOST = 4  # times that a block is compiled for one shape of examples
GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile that replay CUDA graphs


@dataclass(frozen=True)
class Compile:
    """What is compiled, and how. `compile: true` in a recipe stands for the defaults.

    Args:
        region: "blocks" compiles each block of the network by itself, those that are alike once; a network without blocks, whole.
            "network" compiles it whole, which fuses across blocks and takes several times as long before the first step.
            Consistency training compiles its whole loss, derivative included, whatever is said here.
        mode: of `torch.compile`. "reduce-overhead" and "max-autotune" replay CUDA graphs, which helps where a step is so short that
            starting its kernels takes as long as running them; they keep the memory of a step for themselves.
        optimizer: compile the optimiser's step, too; for one without a `fused` implementation.
        fullgraph: an error where a part cannot be compiled, instead of running that part uncompiled.
        eager_random: draw dropout's random numbers as a run that is not compiled does, with "inductor"; slower.
        backend: of `torch.compile`.

    Raises:
        ValueError: a region or mode that there is not.
    """

    region: Literal["blocks", "network"] = "blocks"
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    optimizer: bool = False
    fullgraph: bool = False
    eager_random: bool = False
    backend: str = "inductor"

    def __post_init__(self) -> None:
        modes = ("default", *GRAPHS, "max-autotune-no-cudagraphs")
        for name, value, known in (("region", self.region, ("blocks", "network")), ("mode", self.mode, modes)):
            if value not in known:
                raise ValueError(f"Compile: {name} must be one of {', '.join(known)}, got {value!r}")

    @property
    def replays_graphs(self) -> bool:
        """Whether what a compiled part returns lies in memory that it will overwrite in the next step."""
        return self.mode in GRAPHS

    def function(self, fn: Callable[P, R]) -> Callable[P, R]:
        """`fn` compiled for the shapes that it is called with, each anew."""
        options = None
        if self.backend == "inductor":
            options = torch._inductor.list_mode_options(self.mode) | {"fallback_random": self.eager_random}
        compiled: Callable[P, R] = torch.compile(
            fn, dynamic=False, fullgraph=self.fullgraph, options=options, backend=self.backend
        )
        return compiled

    def why_not(self, device: torch.device) -> str | None:
        """Why nothing can be compiled for a device (no C++ compiler, no Triton, a cache that cannot be written); None if it can."""
        try:
            with torch.no_grad():
                torch.compile(_sample, backend=self.backend)(torch.ones(16, device=device))
        except Exception as error:
            cause: BaseException = error
            while (deeper := getattr(cause, "inner_exception", None) or cause.__cause__) is not None:
                cause = deeper
            lines = str(cause).strip().splitlines()
            return lines[0].strip() if lines else type(cause).__name__
        return None

    def serves(self, device: torch.device, key: str) -> bool:
        """Whether anything can be compiled for a device; a warning says why not, and that training goes on without."""
        reason = self.why_not(device)
        if reason is not None:
            warnings.warn(f"{key}: torch cannot compile here ({reason}); training goes on without", stacklevel=3)
        return reason is None

    def network(self, network: nn.Module) -> None:
        """Compile a network in place."""
        network._compiled_call_impl = None  # of an earlier fit
        parts = list(blocks(network)) if self.region == "blocks" else []
        for part in parts or [network]:
            self.part(part)
        if self.replays_graphs:
            _delimit(network)

    @staticmethod
    def expect(network: nn.Module, shapes: int) -> None:
        """Let the code of a network, and of a teacher like it, be compiled for so many shapes of examples (see `part`)."""
        more = 2 * MOST * max(len(list(blocks(network))), 1) * (shapes - 1)
        torch._dynamo.config.recompile_limit += more
        torch._dynamo.config.accumulated_recompile_limit += more

    def part(self, part: nn.Module) -> None:
        """Compile one module in place."""
        # Blocks share their code, and torch gives up on code that it has compiled eight times: each may have a shape of its own,
        # and is called with gradients and without, in training and in evaluation.
        torch._dynamo.config.recompile_limit += MOST
        torch._dynamo.config.accumulated_recompile_limit += MOST
        part._compiled_call_impl = _for_any_number(self.function(part._call_impl))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Compile an optimiser's step in place; its state stays as it is.

        Raises:
            UserError: a fused optimiser, of whose step torch compiles nothing.
        """
        if any(group.get("fused") for group in optimizer.param_groups):
            raise UserError("model.compile.optimizer: a fused optimiser is compiled already; leave one of the two out")
        whole = optimizer.step
        compiled = torch.compile(whole, dynamic=False, backend=self.backend)

        def step(closure: Callable[[], Any] | None = None) -> Any:
            result = None
            if closure is not None:
                with torch.enable_grad():
                    result = closure()
            rates = [group["lr"] for group in optimizer.param_groups]
            for group, rate in zip(optimizer.param_groups, rates, strict=True):  # a number would be compiled in
                group["lr"] = torch.tensor(rate, device=group["params"][0].device)
            try:
                compiled()
            finally:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate
            return result

        optimizer.step = step  # type: ignore[method-assign]


def as_compile(given: "bool | Compile") -> Compile | None:
    """What a module's `compile` says."""
    return given if isinstance(given, Compile) else Compile() if given else None


def is_compiled(network: nn.Module) -> bool:
    return any(part._compiled_call_impl is not None for part in network.modules())


def _for_any_number(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled call whose graph without gradients serves any number of examples: pictures and figures are drawn in batches
    of other sizes than the training's."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            for value in (*args, *kwargs.values()):
                if isinstance(value, Tensor) and value.ndim:
                    torch._dynamo.maybe_mark_dynamic(value, 0)
        return compiled(*args, **kwargs)

    return call


_is_pending: ContextVar[bool] = ContextVar("_is_pending", default=False)


@contextmanager
def pending() -> Iterator[None]:
    """In here networks are called between another's pass forward and its pass backward, which may replay graphs: they begin no new
    step of those, in which the activations of the first would be overwritten."""
    token = _is_pending.set(True)
    try:
        yield
    finally:
        _is_pending.reset(token)


def _delimit(network: nn.Module) -> None:
    """Let a network whose parts replay graphs be called again and again without gradients, by a sampler: each call may overwrite
    what the one before returned, and so hands out a copy. With gradients, the training step is what begins anew, and before they
    are there (`pending`) nothing does."""
    inner = network._compiled_call_impl or network._call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return inner(*args, **kwargs)
        if not _is_pending.get():
            torch.compiler.cudagraph_mark_step_begin()
        return inner(*args, **kwargs).clone()

    network._compiled_call_impl = call


def _sample(x: Tensor) -> Tensor:
    return x.sin() + x
