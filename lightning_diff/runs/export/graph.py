"""The denoiser D(x, sigma, ...) as one graph of torch's: its inputs by name, examples of them, and what a copy differs by."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...condition import AnyCondition, takes_condition, unchecked
from ...denoiser import Denoiser
from ...foundation import rng
from ...foundation.errors import UserError
from .source import Source

OUTPUT = "x0"
MOST = 4096  # examples in a batch
MOST_OF_UNET = 63  # of the library's, whose code takes another way from 64 on
LEVELS = (0.1, 1.0, 10.0)  # at which a copy is held against the denoiser
TOLERANCE = 1e-3  # of the largest value: what sums in another order differs far less by


@dataclass(frozen=True)
class Input:
    """Of the graph, with a batch axis before its shape.

    Args:
        name: as the graph calls it.
        shape: of one example.
        dtype: "float32" or "int64".
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Graph(nn.Module):
    """x (B, ...), sigma (B,) and then the further inputs in order -> x0 (B, ...).

    Args:
        denoiser: in eval mode.
        names: of the inputs after the first two: "label", or those of a condition; and "guidance".
    """

    def __init__(self, denoiser: Denoiser, names: Sequence[str]):
        super().__init__()
        self.denoiser, self.names = denoiser, tuple(names)

    def forward(self, x: Tensor, sigma: Tensor, *given: Tensor) -> Tensor:
        by_name = dict(zip(self.names, given, strict=True))
        conditioning = {name: by_name.pop(name) for name in ("guidance",) if name in by_name}
        label: AnyCondition | None = by_name.pop("label", None)
        if by_name:
            label = unchecked(by_name)  # a check of lengths would fix the batch's
        denoised: Tensor = self.denoiser(x, sigma, label, **conditioning)
        return denoised


def inputs(source: Source) -> list[Input]:
    """Of the graph of a model, in order."""
    found = [Input("x", source.record.shape), Input("sigma", ())]
    if takes_condition(source.net):
        shapes: dict[str, tuple[int, ...]] = source.net.condition_shapes  # type: ignore[assignment]
        found += [Input(name, tuple(shape)) for name, shape in shapes.items()]
    elif source.record.conditions.num_classes:
        found.append(Input("label", (), "int64"))
    if getattr(source.net, "guided", source.record.net.get("guided", False)):
        found.append(Input("guidance", ()))
    return found


def example(source: Source, batch: int, seed: int = 0) -> list[Tensor]:
    """Something to call the graph with; no random number of anybody's changes."""
    drawn = []
    for each in inputs(source):
        shape = (batch, *each.shape)
        if each.name == "label":
            classes = source.record.conditions.num_classes
            drawn.append((torch.arange(batch) + seed) % classes)
        elif each.name == "sigma":
            drawn.append(torch.tensor([LEVELS[row % len(LEVELS)] for row in range(batch)]))
        elif "mask" in each.name:  # the last token of every other row is none
            drawn.append((torch.arange(shape[1]) < shape[1] - torch.arange(batch)[:, None] % 2).float())
        elif each.name == "guidance":
            drawn.append(1.0 + torch.arange(batch))
        else:
            drawn.append(rng.normal(seed, f"export {each.name}", range(batch), each.shape))
    sigma = drawn[1].reshape(-1, *[1] * (drawn[0].ndim - 1))
    drawn[0] = drawn[0] * (sigma**2 + source.record.sigma_data**2).sqrt()
    return drawn


def traced(source: Source) -> torch.export.ExportedProgram:
    """The graph, with any number of examples in a batch.

    Raises:
        UserError: the network does something that no graph can hold; in torch's words.
    """
    every = inputs(source)
    module = Graph(source.denoiser, [each.name for each in every[2:]]).eval()
    rows = {0: torch.export.Dim("batch", min=1, max=most(source))}
    further: list[object] = [tuple(rows for _ in every[2:])] if len(every) > 2 else []
    try:
        with torch.no_grad():
            return torch.export.export(
                module, tuple(example(source, 2)), dynamic_shapes=(rows, rows, *further), strict=False
            )
    except Exception as error:  # torch's exporter raises what the network's own code does
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"export: {source.network_name} cannot be traced into a graph ({type(error).__name__}: {reason}); "
            "--to safetensors keeps it as it is"
        ) from error


def most(source: Source) -> int:
    """Examples in the largest batch."""
    return MOST_OF_UNET if source.network_name.startswith("UNet2D") else MOST


def difference(source: Source, run: Callable[..., Tensor]) -> float:
    """The largest by which a copy of the graph differs from the denoiser, over the largest value, on batches of 1 and 3.

    Raises:
        UserError: it is more than `TOLERANCE`, so that the copy is no copy.
    """
    names = [each.name for each in inputs(source)][2:]
    eager = Graph(source.denoiser, names)
    worst = 0.0
    for batch in (1, 3):
        given = example(source, batch, seed=batch)
        with torch.no_grad():
            own, other = eager(*given), run(*given)
        apart = (own - other).abs().max() / own.abs().max()
        worst = max(worst, apart.nan_to_num(math.inf).item())
    if not worst <= TOLERANCE:
        raise UserError(
            f"export: the graph differs from the denoiser by {worst:.1e} of the largest value, more than {TOLERANCE:g}; "
            "nothing was written; please report it with the recipe"
        )
    return worst


def facts(source: Source) -> dict[str, object]:
    """What the record beside a graph tells whoever runs it without this project."""
    solver, sigmas = source.grid
    record = source.record
    return {
        "inputs": [{"name": i.name, "shape": ["batch", *i.shape], "dtype": i.dtype} for i in inputs(source)],
        "output": {"name": OUTPUT, "shape": ["batch", *record.shape], "dtype": "float32"},
        "batch": [1, most(source)],
        "kind": record.kind,
        "sigma_data": record.sigma_data,
        "num_classes": record.conditions.num_classes,
        "class_names": list(record.class_names),
        "grid": {"solver": solver, "sigmas": sigmas},
    }
