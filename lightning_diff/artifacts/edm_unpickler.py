"""The unpickler of NVlabs' files: it knows some dozen names, builds data of them, and runs nothing else."""

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


class Refused(pickle.UnpicklingError):
    """A name outside the list."""


class SavedModule:
    """A module of the file: the name of its class, and its attributes; the last five are those of some classes only."""

    class_name: str
    _parameters: dict[str, Tensor | None]
    _buffers: dict[str, Tensor]
    _modules: dict[str, object]
    _init_args: Sequence[object]
    _init_kwargs: dict[str, Any]
    sigma_data: float
    skip_scale: float
    num_heads: int


class SavedArray:
    """A NumPy array of the file; `values` is None of one whose numbers the file leaves out."""

    values: np.ndarray | None = None


class DataUnpickler(pickle.Unpickler):
    """Reads tensors, NumPy arrays (as `SavedArray`), numbers, containers and modules; calls nothing else.

    A pickle can set attributes on any class it can name, so the classes are made anew for each file.
    """

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)

        class Module(SavedModule):
            """A module of this file alone."""

        class Dict(dict):
            """dnnlib's EasyDict, as a dictionary."""

        class Dtype:
            """NumPy's, of plain numbers; of its state the byte order is kept."""

            order = "<"

            def __init__(self, name: str, *_: object):
                if not re.fullmatch("[fiub][1248]", name):
                    raise Refused(f"numpy.dtype({name!r})")
                self.name = name

            def __setstate__(self, state: Sequence[object]) -> None:
                self.order = ">" if state[1] == ">" else "<"

            def read(self, data: bytes | bytearray) -> np.ndarray:
                return np.frombuffer(data, self.order + self.name)

        class Array(SavedArray):
            """An array of this file alone."""

            def __setstate__(self, state: Sequence[Any]) -> None:
                _, shape, dtype, is_fortran, data = state
                self.values = dtype.read(data).reshape(shape, order="F" if is_fortran else "C")

        def empty(*_: object) -> Array:
            return Array()

        def frombuffer(data: bytes | bytearray, dtype: Dtype, shape: Sequence[int], order: Literal["C", "F"]) -> Array:
            array = Array()
            array.values = dtype.read(data).reshape(shape, order=order)
            return array

        def scalar(dtype: Dtype, data: bytes) -> int | float | bool:
            number: int | float | bool = dtype.read(data)[0].item()
            return number

        def persistent(meta: dict[str, Any]) -> Module:
            module = Module()
            module.__dict__.update(meta["state"])
            module.__dict__["class_name"] = meta["class_name"]
            return module

        def storage(data: bytes) -> torch.TypedStorage:
            found: torch.TypedStorage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return found

        def tensor(
            data: torch.TypedStorage, offset: int, size: Sequence[int], stride: Sequence[int], *_: object
        ) -> Tensor:
            flat = torch.empty(0, dtype=data.dtype).set_(data._untyped_storage)
            if math.prod(size) > len(flat):
                raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} over {len(flat)} numbers")
            return flat.as_strided(size, stride, offset).clone()  # as_strided checks the bounds

        def parameter(data: Tensor, *_: object) -> Tensor:
            return data

        self.known: dict[str, Callable[..., object]] = {
            "torch_utils.persistence._reconstruct_persistent_obj": persistent,
            "torch.nn.modules.container.ModuleDict": Module,
            "torch.storage._load_from_bytes": storage,
            "torch._utils._rebuild_tensor_v2": tensor,
            "torch._utils._rebuild_parameter": parameter,
            "dnnlib.util.EasyDict": Dict,
            "collections.OrderedDict": OrderedDict,
            "builtins.set": set,
            "numpy.dtype": Dtype,
            "numpy.ndarray": Array,
        }
        for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
            self.known[f"{core}.multiarray.scalar"] = scalar
            self.known[f"{core}.multiarray._reconstruct"] = empty
            self.known[f"{core}.numeric._frombuffer"] = frombuffer  # what pickle's protocol 5 writes

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        if f"{module}.{name}" not in self.known:
            raise Refused(f"{module}.{name}")
        return self.known[f"{module}.{name}"]
