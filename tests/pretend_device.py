"""A device that is not there: tensors on "pretend" are computed by the CPU and behave as on a GPU where mistakes show.

Inside `pretend()`

    - a CPU tensor that meets a device tensor is an error; one number may, as on CUDA, where torch computes elementwise;
    - random numbers are of a state of its own, and a CPU generator is refused;
    - every wait of the host for the device is noted, with the line of ours that caused it (`Waits`): reading a number, copies that
      are not `non_blocking`, copies from memory that is not pinned, and operations whose result has a size that data decide;
    - what is copied to the host without waiting has not arrived before the host waits for something after it;
    - autocast, forward mode, fused and foreach optimisers, events, and Lightning's Trainer work (`OPTIONS`).

It follows what `torch.cuda.set_sync_debug_mode` reports. It knows no streams, no memory limit and no compilation.
"""

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _DummyPrivateUse1Hook

NAME = "pretend"
HERE = Path(__file__).resolve().parents[1]
CARRIERS = {
    Path(__file__).resolve(),
    HERE / "lightning_diff" / "foundation" / "devices.py",
}  # wait for whoever calls them
LIBRARIES = {"site-packages", "dist-packages"}
aten = torch.ops.aten

# What CUDA answers only after it has looked at the values.
LOOKS_AT_VALUES = {
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount",
    "aten::equal", "aten::_linalg_check_errors", "aten::linalg_eig", "aten::linalg_lstsq", "aten::multinomial",
    "aten::repeat_interleave", "aten::_linalg_svd", "aten::is_nonzero",
}  # fmt: skip
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
LOW = "linear conv1d conv2d conv_transpose2d matmul mm bmm addmm addmv mv baddbmm einsum scaled_dot_product_attention"
HIGH = "pow exp log softmax log_softmax layer_norm group_norm norm cumsum prod mse_loss cdist reciprocal rsqrt sum softplus"


@dataclass
class Wait:
    """One wait of the host for the device."""

    kind: str  # "read", "copy out", "copy in", "size" or "event"
    place: str  # file:line of ours that is nearest to it, or, where there is none, of a library
    step: object  # what `Waits.step` was


@dataclass
class Waits:
    """The waits seen so far; `step` is whatever the test calls the present."""

    found: list[Wait] = field(default_factory=list)
    step: object = None

    def places(self, step: object = ...) -> list[str]:
        """kind and place of each, of one step or of all."""
        return [f"{wait.kind}: {wait.place}" for wait in self.found if step is ... or wait.step == step]


class Pretended(Tensor):
    """A tensor on the device. `held` is what it is computed with, a CPU tensor."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretended":
        kept = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, held.size(), device=f"{NAME}:0", **kept)

    def __init__(self, held: Tensor):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: "Pretended") -> None:  # Module.to of another dtype: what it is computed with changes along
        Tensor.data.__set__(self, value)
        self.held = value.held

    def __reduce_ex__(self, protocol: Any) -> Any:  # torch.save copies each storage to the host
        return self.detach().cpu().__reduce_ex__(protocol)

    def tolist(self) -> Any:  # torch's own is not for subclasses
        return self.cpu().tolist()

    def __repr__(self, **_: object) -> str:
        return f"Pretended({self.held!r})"


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Event:
    """As torch.cuda.Event: of what has been launched before `record`. Waiting for it counts where nothing was launched after it,
    since the device then runs out of work."""

    def __init__(self, *_: object, **__: object):
        self._arrivals: list[Callable[[], None]] = []
        self._launched = -1

    def record(self, stream: object = None) -> None:
        self._arrivals, self._launched = list(_state.on_their_way), _state.launched

    def query(self) -> bool:
        return not any(arrival in _state.on_their_way for arrival in self._arrivals)

    def synchronize(self) -> None:
        if self._launched == _state.launched:
            _wait("event")
        _state.arrive(self._arrivals)


class _Backend(_DummyBackendModule):
    """What stands at `torch.pretend`."""

    Event = Event

    def is_available(self) -> bool:
        return _state.is_on

    def device_count(self) -> int:
        return int(_state.is_on)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed(self, seed: int) -> None:
        _state.generator.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, device: object = None) -> Tensor:
        return _state.generator.get_state()

    def set_rng_state(self, new_state: Tensor, device: object = None) -> None:
        _state.generator.set_state(new_state)

    def synchronize(self, device: object = None) -> None:
        _wait("event")

    def empty_cache(self) -> None: ...

    def max_memory_allocated(self, device: object = None) -> int:
        return 2**20


class _Hook(_DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return _state.is_on


class _State:
    """Of the one device there is."""

    def __init__(self) -> None:
        self.is_on, self.waits = False, Waits()
        self.launched = 0  # operations
        self.generator = torch.Generator()
        self.on_their_way: list[Callable[[], None]] = []
        self.pinned: set[int] = set()  # addresses

    def arrive(self, arrivals: Sequence[Callable[[], None]]) -> None:
        for arrival in [each for each in self.on_their_way if each in arrivals]:
            self.on_their_way.remove(arrival)
            arrival()


_state = _State()


@contextmanager
def pretend() -> Iterator[Waits]:
    """The device is there; gives the list of waits, which grows."""
    _register()
    _state.waits, _state.is_on = Waits(), True
    _state.generator.manual_seed(0)
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        # Backward in this thread: another would not know the mode, and one that lives forbids later forks.
        with _Mode(), torch.autograd.set_multithreading_enabled(False):
            yield _state.waits
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        _state.is_on = False
        _state.on_their_way.clear()


_registered: list[torch.library.Library] = []  # which unregister when they are forgotten


def _register() -> None:
    """Once in a process."""
    if hasattr(torch, NAME):
        return
    torch.ones((), requires_grad=True).backward()  # so that torch counts devices, and starts threads for them, now
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend(), _Hook())
    library, rest = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for names, dtype in ((LOW, None), (HIGH, torch.float32)):
        for name in names.split():
            packet = getattr(aten, name)
            for overload in packet.overloads():
                if "out" not in overload and "dimname" not in overload.lower():
                    library.impl(
                        getattr(packet, overload), _autocast(getattr(packet, overload), dtype), "AutocastPrivateUse1"
                    )
    _registered.extend([library, rest])


def _autocast(func: Any, dtype: torch.dtype | None) -> Callable[..., Any]:
    """Like `func`, with floating-point arguments on the device in `dtype`, or that of the autocast around it."""
    without = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(x: object) -> object:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == torch.float64 or x.device.type != NAME:
            return x
        return x.to(dtype or torch.get_autocast_dtype(NAME))

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(without):
            return func(*tree_map(cast, args), **tree_map(cast, kwargs))

    return run


# --- one operation ---


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name, leaves = func._schema.name, tree_leaves((args, kwargs))
    ours = [x for x in leaves if isinstance(x, Pretended)]
    to = kwargs.get("device")
    onto = to is not None and torch.device(to).type == NAME
    if name in ("aten::_pin_memory", "aten::is_pinned") and not ours:
        return _pin(name, args[0])
    if not ours and not onto:
        return func(*args, **kwargs)
    _state.launched += 1
    if name in ("aten::_to_copy", "aten::copy_"):
        return _copy(func, args, kwargs, onto)
    if name == "aten::_fused_sdp_choice":
        return 0  # plain products
    others = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, Pretended)]
    _refuse_mixing(func, name, args, kwargs, ours, others)
    result = _computed(func, name, args, kwargs)
    if name == "aten::_local_scalar_dense":
        _wait("read")
        return result
    if name in LOOKS_AT_VALUES or (name in INDEXING and _is_masked(name, args)):
        _wait("size")
    return _given(result, ours)


def _copy(func: Any, args: Any, kwargs: Any, onto: bool) -> Any:
    """To the device, from it, or on it."""
    if func is aten.copy_.default:
        to, source, free = args[0], args[1], bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        is_out, is_in = not isinstance(to, Pretended), not isinstance(source, Pretended)
    else:
        to, source, free = None, args[0], bool(kwargs.get("non_blocking"))
        is_out, is_in = kwargs.get("device") is not None and not onto, not isinstance(source, Pretended)
    value = func(*_held(args), **_held(kwargs | {"device": "cpu"} if "device" in kwargs else kwargs))
    if is_out:
        if not free:
            _wait("copy out")
        else:
            _arrives_later(value)
        return value if to is None else to
    if is_in and not (free and _is_pinned(source)):
        _wait("copy in")
    return Pretended(value) if to is None else to


def _arrives_later(value: Tensor) -> None:
    there, target = value.clone(), value.detach()
    target.fill_(torch.nan if value.is_floating_point() else 0)
    _state.on_their_way.append(lambda: target.copy_(there))


def _refuse_mixing(func: Any, name: str, args: Any, kwargs: Any, ours: list[Any], others: list[Tensor]) -> None:
    """As CUDA does."""
    for generator in (x for x in [*args, *kwargs.values()] if isinstance(x, torch.Generator)):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{generator.device}': {name}")
    if not others or not ours:
        return
    if name in INDEXING:  # indices may be on the host; they are copied
        values = [x for x in [args[0], *args[2:3]] if isinstance(x, Tensor)]
        others = [x for x in others if any(x is value for value in values)]
        if not others:
            _wait("copy in")
            return
    is_elementwise = torch.Tag.pointwise in func.tags or name.startswith("aten::_foreach") or name in INDEXING
    into_host = func._schema.is_mutable and args and any(args[0] is x for x in others)
    if into_host or any(x.ndim for x in others) or not is_elementwise:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu, in {name} of "
            f"shapes {[tuple(x.shape) for x in [*ours, *others]]}"
        )


def _computed(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """By the CPU; random numbers by the device's generator."""
    if "device" in kwargs:
        kwargs = kwargs | {"device": "cpu", "pin_memory": False if "pin_memory" in kwargs else None}
        kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory" or value is not None}
    args, kwargs = _held(args), _held(kwargs)
    if name == "aten::_efficientzerotensor":  # a tangent of zero without memory, which the wrapper would not know of
        func = aten.zeros.default
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **kwargs)
    mine = torch.get_rng_state()
    torch.set_rng_state(_state.generator.get_state())
    try:
        return func(*args, **kwargs)
    finally:
        _state.generator.set_state(torch.get_rng_state())
        torch.set_rng_state(mine)


def _given(result: Any, ours: list[Any]) -> Any:
    """What was computed, on the device; what was changed in place is what it was."""
    known = {id(x.held): x for x in ours}

    def wrap(x: object) -> object:
        if not isinstance(x, Tensor) or isinstance(x, Pretended):
            return x
        return known[id(x)] if id(x) in known else Pretended(x)

    return tree_map(wrap, result)


def _held(x: Any) -> Any:
    return tree_map(lambda each: each.held if isinstance(each, Pretended) else each, x)


def _is_masked(name: str, args: Any) -> bool:
    """Whether an index is a mask, whose number of rows has to be known; one number into a mask is filled in without."""
    masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
    return bool(masks) and not (name != "aten::index" and args[2].numel() == 1)


def _pin(name: str, tensor: Tensor) -> Any:
    if name == "aten::is_pinned":
        return _is_pinned(tensor)
    copy = tensor.clone()
    _state.pinned.add(copy.untyped_storage().data_ptr())
    weakref.finalize(copy, _state.pinned.discard, copy.untyped_storage().data_ptr())
    return copy


def _is_pinned(tensor: Tensor) -> bool:
    return tensor.untyped_storage().data_ptr() in _state.pinned


def _wait(kind: str) -> None:
    _state.arrive(list(_state.on_their_way))
    _state.waits.found.append(Wait(kind, _place(), _state.waits.step))


def _place() -> str:
    """The innermost line that is no library's, or a library's where there is none."""
    frame, library = sys._getframe(2), ""
    while frame is not None:
        path = Path(frame.f_code.co_filename).resolve()
        if path not in CARRIERS:
            if path.is_file() and not LIBRARIES & set(path.parts) and not path.is_relative_to(sys.base_prefix):
                return f"{path.relative_to(HERE) if path.is_relative_to(HERE) else path.name}:{frame.f_lineno}"
            if not library and "torch" not in path.parts:
                library = f"{'/'.join(path.parts[-3:])}:{frame.f_lineno}"
        frame = frame.f_back
    return library
