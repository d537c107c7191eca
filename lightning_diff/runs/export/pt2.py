"""--to pt2: the denoiser as a program of torch.export, which runs where torch does, without this project's code."""

from pathlib import Path

import torch

from . import graph
from .source import Source
from .target import Written

NAME = "model.pt2"


def refuse(source: Source) -> None:
    """Every network has a graph, as far as can be known before it is traced."""


def write(source: Source, folder: Path) -> Written:
    """Write `model.pt2`, and hold what was written against the denoiser."""
    torch.export.save(graph.traced(source), folder / NAME)
    found = graph.difference(source, torch.export.load(folder / NAME).module())
    names = ", ".join(each.name for each in graph.inputs(source))
    return Written(
        said=f"differs from the denoiser by {found:.1e} of the largest value",
        facts={**graph.facts(source), "difference": found},
        library="pytorch",
        loading=(
            "import json, torch",
            f'denoise = torch.export.load("{NAME}").module()',
            'record = json.load(open("export.json"))  # names and shapes of the inputs, noise levels to sample at',
            f"x0 = denoise({names})  # x = x0 + sigma * noise; sigma (batch,), positive and finite",
        ),
    )
