"""lightning-diff export"""

from pathlib import Path
from typing import Annotated

import typer

from ..runs import choices
from .options import Run, choice


def export(
    folder: Run,
    to: Annotated[str, choice("--to", choices.targets, "What to write: {targets}.")] = "safetensors",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to write to; default the run's own, or export/TARGET in it."),
    ] = None,
    ema: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of an average, or none; default the first.")
    ] = None,
    sigma_rel: Annotated[
        float | None, typer.Option(metavar="X", help="Reconstruct an average of this width instead.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, metavar="N", help="Moment of the reconstructed average.")] = None,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="Licence of the weights, for the model card: apache-2.0, mit, ...")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="Push the folder to this model on the hub, with HF_TOKEN.")
    ] = None,
) -> None:
    """Write the model of the newest checkpoint, for this project or for others.

    safetensors: model.safetensors, and model.json, which says how to rebuild the network. diffusers: a folder that the stock
    pipeline loads, of networks from that library. lora: its adapters alone. onnx and pt2: the denoiser as one graph.
    """
    from ..runs import named
    from ..runs.console import say
    from ..runs.export import write

    made = write(
        named.find(folder),
        to,
        out,
        profile=ema,
        sigma_rel=sigma_rel,
        images=images,
        license=license,
        repository=push,
    )
    print(made.path)
    if made.said:
        say(made.said)
