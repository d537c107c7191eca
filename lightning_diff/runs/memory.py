"""Memory of training on each device, by component, from shapes alone: no weights are allocated."""

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..condition import blank
from ..denoiser import Denoiser
from ..modules.critic import Critic
from ..modules.denoiser_module import TrainingModule
from ..modules.in_turns import MakeInTurns
from ..modules.sharding import networks
from ..nets.blocks import blocks
from ..noise import LogNormal
from ..objectives import denoising_loss


class Memory(NamedTuple):
    """Bytes on one device: of the first process, which has the most rows where they do not divide evenly.

    `activations` is the peak, in a forward and a backward pass of the denoising loss, of all that is neither weight nor gradient
    of one; beside a critic, of as many passes as are held at once. `critic` is its weights and its optimiser's state; of its
    gradients and the network's, one is there at a time. `paths` are a teacher's, which are kept over steps. `exchanged` is what is
    there to talk to other processes: under shards the gathered weights of two blocks and of what lies outside of blocks, and one
    block's gradient as it is and in float32; else DDP's buckets. Not counted: the examples of data in memory (on the host),
    networks outside the module (a teacher, those of metrics), what paths are conditioned on, what libraries take, gaps of the
    allocator.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    exchanged: int
    activations: int
    critic: int = 0
    paths: int = 0

    @property
    def total(self) -> int:
        return sum(self)


def estimate(
    module: nn.Module,
    shape: Sequence[int],
    images: int,
    *,
    accumulation: int = 1,
    processes: int = 1,
    is_sharded: bool = False,
    precision: torch.dtype | None = None,
    averages: int = 0,
) -> Memory:
    """Memory of training a module; exact for weights, gradients, the optimiser's state and averages.

    Args:
        module: a training module, whose network may be on the meta device.
        shape: of one example.
        images: at a time on each process.
        accumulation: such parts of a step.
        processes: over which rows are divided, if `is_sharded`, or which exchange gradients.
        precision: of autocast, None for none.
        averages: how many averages of the weights are kept.
    """
    if not isinstance(module, TrainingModule):
        raise ValueError(f"a {type(module).__name__} trains no denoiser")
    shares = processes if is_sharded else 1
    shared = {id(weight) for network in networks(module) for weight in network.parameters()} if is_sharded else set()

    def local(weight: Tensor) -> torch.Size:
        rows = -(-weight.shape[0] // shares) if id(weight) in shared else 0
        return torch.Size([rows, *weight.shape[1:]]) if rows else weight.shape

    critic: Critic | None = getattr(module, "critic", None)
    of_critic = [] if critic is None else list(critic.parameters())
    apart = {id(weight) for weight in of_critic}
    weights = [weight for weight in module.parameters() if id(weight) not in apart]
    trained = [weight for weight in weights if weight.requires_grad]
    averaged = [weight for weight in module.denoiser.net.parameters() if weight.requires_grad]
    gradients = sum(local(weight).numel() * weight.element_size() for weight in trained)
    make = module.make_optimizer
    state = _StateSizes(make.first if isinstance(make, MakeInTurns) else make)
    state_of_critic = _StateSizes(make if critic is None else critic.make_optimizer)
    size_of_critic = sum(local(weight).numel() * weight.element_size() for weight in of_critic)
    return Memory(
        weights=sum(local(weight).numel() * weight.element_size() for weight in weights)
        + sum(buffer.numel() * buffer.element_size() for buffer in module.buffers()),
        gradients=gradients,
        optimizer=sum(state.of(local(weight), weight.dtype) for weight in trained),
        averages=averages * sum(local(weight).numel() * max(weight.element_size(), 4) for weight in averaged),
        exchanged=_gathered(module, precision) if is_sharded else (gradients + size_of_critic) * (processes > 1),
        activations=_activations(module.denoiser, shape, images, precision, weights_are_cast=is_sharded)
        * (1 if critic is None else critic.passes_at_once),
        critic=size_of_critic + sum(state_of_critic.of(local(weight), weight.dtype) for weight in of_critic),
        paths=4 * math.prod(shape) * images * accumulation * getattr(module, "kept_images", 0),
    )


def table(memory: Memory, processes: int, images: int) -> str:
    """The figures as text, in GB of 10^9 bytes, or MB where that says more."""
    rows = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimiser's state": memory.optimizer,
        "critic and its optimiser's state": memory.critic,
        "averages": memory.averages,
        "the teacher's paths": memory.paths,
        "exchange with other processes": memory.exchanged,
        f"activations of {images} images (estimate)": memory.activations,
        "total": memory.total,
    }
    unit, name = (1e9, "GB") if memory.total >= 1e9 else (1e6, "MB")
    head = f"memory on each of {processes} devices" if processes > 1 else "memory"
    return "\n".join([f"{head}, {name}", *(f"  {row:<40}{size / unit:>8.2f}" for row, size in rows.items() if size)])


class _StateSizes:
    """Bytes of an optimiser's state for a weight of each shape, found by a step on one of that shape: without values, if it can."""

    def __init__(self, make_optimizer: Callable[..., torch.optim.Optimizer]):
        self.make_optimizer = make_optimizer
        self.known: dict[tuple[torch.Size, torch.dtype], int] = {}

    def of(self, shape: torch.Size, dtype: torch.dtype) -> int:
        if (shape, dtype) not in self.known:
            try:
                self.known[shape, dtype] = self._found(shape, dtype, "meta")
            except Exception:  # of an optimiser that looks at values
                self.known[shape, dtype] = self._found(shape, dtype, "cpu")
        return self.known[shape, dtype]

    def _found(self, shape: torch.Size, dtype: torch.dtype, device: str) -> int:
        weight = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
        weight.grad = torch.zeros_like(weight)
        optimizer = self.make_optimizer([weight])
        optimizer.step()
        state = [value for value in tree_leaves(optimizer.state[weight]) if isinstance(value, Tensor)]
        return sum(value.numel() * value.element_size() for value in state)


def _gathered(module: TrainingModule, precision: torch.dtype | None) -> int:
    def bytes_of(weights: Iterator[nn.Parameter], dtype: torch.dtype | None = None) -> int:
        return sum(weight.numel() * (dtype.itemsize if dtype else weight.element_size()) for weight in weights)

    total = 0
    for network in networks(module):
        parts = list(blocks(network))
        of_blocks = {id(weight) for part in parts for weight in part.parameters()}
        total += bytes_of(weight for weight in network.parameters() if id(weight) not in of_blocks)
        largest = max((bytes_of(part.parameters(), precision) for part in parts), default=0)
        in_float32 = max((bytes_of(part.parameters(), torch.float32) for part in parts), default=0)
        total += 3 * largest + (in_float32 if precision else 0)
    return total


def _activations(
    denoiser: Denoiser, shape: Sequence[int], images: int, precision: torch.dtype | None, weights_are_cast: bool
) -> int:
    """The peak, over a pass forward and one backward, of the bytes of all tensors that live but for weights and their gradients."""
    denoiser = copy.deepcopy(denoiser)  # of tensors on the meta device: only shapes
    in_blocks = {id(weight) for part in blocks(denoiser.net) for weight in part.parameters()}
    num_classes = int(getattr(denoiser.net, "num_classes", 0))
    with FakeTensorMode():
        for part in denoiser.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    dtype = precision if weights_are_cast and id(weight) in in_blocks and precision else weight.dtype
                    fake = torch.empty(weight.shape, dtype=dtype, device="cpu")
                    part._parameters[name] = nn.Parameter(fake, requires_grad=weight.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
        live = _Live([*denoiser.parameters(), *denoiser.buffers()])
        with (
            live,
            torch.autocast("cpu", precision, cache_enabled=False) if precision else nullcontext(),
        ):
            image, noise = torch.empty(images, *shape), torch.empty(images, *shape)
            sigma = LogNormal().icdf(torch.empty(images, dtype=torch.float64)).float()
            label = blank(denoiser.net, num_classes, images)
            loss = denoising_loss(denoiser, image, sigma, noise, label).mean()
        with live:
            loss.backward()
        gradients = [weight.grad for weight in denoiser.parameters() if weight.grad is not None]
        return live.peak(without=gradients)


class _Live(TorchDispatchMode):
    """Records when the memory of each tensor was allocated and freed, but for those that were there before."""

    def __init__(self, before: Sequence[Tensor]) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []  # key of the memory, bytes; negative when it went
        self.before = [value.untyped_storage() for value in before]
        self.keys = {id(storage): -1 for storage in self.before}  # by the identity of a storage that lives

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._notice(value.untyped_storage())
        return result

    def _notice(self, storage: torch.UntypedStorage) -> None:
        identity, size = id(storage), storage.nbytes()
        if identity not in self.keys:
            key = self.keys[identity] = len(self.events)
            self.events.append((key, size))
            weakref.finalize(storage, self._freed, identity, key, size)

    def _freed(self, identity: int, key: int, size: int) -> None:
        self.keys.pop(identity, None)
        self.events.append((key, -size))

    def peak(self, without: Sequence[Tensor]) -> int:
        left_out = {self.keys.get(id(value.untyped_storage())) for value in without}
        now = most = 0
        for key, size in self.events:
            if key not in left_out:
                now += size
                most = max(most, now)
        return most
