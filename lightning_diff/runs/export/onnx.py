"""--to onnx: the denoiser as a graph of ONNX, which runs without torch."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...foundation.errors import UserError
from ...foundation.extras import is_installed, required
from . import graph
from .source import Source
from .target import Written

NAME = "model.onnx"
OPSET = 20  # the newest that onnxruntime 1.17 and later run in full
LARGEST = 2**31 - 2**20  # bytes of one protobuf; above, weights go beside it
_SILENCED = ("torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")  # what they say of torchvision


def refuse(source: Source) -> None:
    """UserError where a library is missing."""
    for package in ("onnx", "onnxscript"):
        required(package, "export: --to onnx")


def write(source: Source, folder: Path) -> Written:
    """Write `model.onnx`, and hold what was written against the denoiser where onnxruntime is installed."""
    every = graph.inputs(source)
    program = graph.traced(source).run_decompositions(_decompositions())
    with _quiet():
        try:
            made: Any = torch.onnx.export(
                program,
                tuple(graph.example(source, 2)),
                input_names=[each.name for each in every],
                output_names=[graph.OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                optimize=False,  # its rules take sums with 1e-15 for sums with 0, and Sana's attention then divides by it
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise UserError(
                f"export: ONNX has no form of {source.network_name} ({reason}); --to pt2 needs none"
            ) from error
    _name_batch(made)
    size = sum(each.numel() * each.element_size() for each in source.net.state_dict().values())
    made.save(folder / NAME, external_data=size > LARGEST)
    found = graph.difference(source, _session(folder / NAME)) if is_installed("onnxruntime") else None
    if found is None:
        said = "not compared with the denoiser: onnxruntime is not installed"
    else:
        said = f"differs from the denoiser by {found:.1e} of the largest value, in onnxruntime"
    return Written(
        said=said,
        facts={**graph.facts(source), "opset": OPSET, "difference": found},
        library="onnx",
        loading=(
            "import json, onnxruntime",
            f'session = onnxruntime.InferenceSession("{NAME}")',
            'record = json.load(open("export.json"))  # names and shapes of the inputs, noise levels to sample at',
            f'x0 = session.run(["{graph.OUTPUT}"], {{{_feed(every)}}})[0]  # x = x0 + sigma * noise; sigma (batch,)',
        ),
    )


def _feed(every: list[graph.Input]) -> str:
    return ", ".join(f'"{each.name}": {each.name}' for each in every)


def _session(path: Path) -> Any:
    """The graph as a function of tensors. UserError where onnxruntime refuses it."""
    runtime = required("onnxruntime", "export: --to onnx")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, which have no common class but this
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"export: onnxruntime does not load the graph ({reason}); --to pt2 needs none of it") from error
    names = [each.name for each in session.get_inputs()]

    def run(*given: Tensor) -> Tensor:
        feed = dict(zip(names, (each.numpy() for each in given), strict=True))
        return torch.from_numpy(session.run([graph.OUTPUT], feed)[0])

    return run


def _name_batch(made: Any) -> None:
    """The first axis of every input and output is called batch, not by a number of torch's."""
    ir = required("onnx_ir", "export: --to onnx")
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape(["batch", *value.shape[1:]])


def _decompositions() -> dict[Any, Any]:
    """Of what torch has no translation into ONNX for, or one that onnxruntime refuses.

    A table's time looks its level up, predictions take a hypotenuse; and PixArt's blocks squeeze an axis of more than one, which
    torch leaves as it is and ONNX' Squeeze does not take.
    """

    def hypot(a: Tensor, b: Tensor) -> Tensor:
        return (a * a + b * b).sqrt()

    def searchsorted(table: Tensor, values: Tensor, *, right: bool = False, **_: object) -> Tensor:
        below = table <= values[..., None] if right else table < values[..., None]
        return below.sum(-1)

    def squeeze(x: Tensor, dim: int) -> Tensor:
        size = x.shape[dim]
        is_one = isinstance(size, int) and size == 1  # the batch's is a symbol, and never squeezed
        return x.reshape([*x.shape[:dim], *x.shape[dim:][1:]] if is_one else x.shape)

    ops = torch.ops.aten
    return {ops.hypot.default: hypot, ops.searchsorted.Tensor: searchsorted, ops.squeeze.dim: squeeze}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress on stdout and its remarks on packages that are not needed."""
    loggers = [logging.getLogger(name) for name in _SILENCED]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
