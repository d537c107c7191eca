"""lightning-diff import"""

from pathlib import Path
from typing import Annotated

import typer


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of diffusers' (a pipeline's or one network's), its name on the hub (owner/name), or a pickle of NVlabs' "
            "EDM or EDM2 (FILE.pkl).",
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Folder to write to; default: of a pickle, FILE beside it; else runs/NAME."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The same as RUN.")] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Height and width of the latents, where the config says none or another."
        ),
    ] = None,
) -> None:
    """Make a model of a diffusers folder or an EDM pickle.

    Nothing in either is run. What it writes, model.safetensors and model.json, every command takes as a RUN, and a
    recipe as model.start, model.teacher or model.model. The weights of a diffusers folder stay where they are; the model
    refers to them by path and hash.
    """
    from ..artifacts import import_edm_pickle, import_pipeline
    from ..foundation.errors import UserError

    if run is not None and out is not None:
        raise UserError(f"--out: {out} and RUN, {run}, are two places; name one")
    target = run or out
    if source.endswith(".pkl"):
        if size is not None:
            raise UserError("--size: is for folders of diffusers'; a pickle knows its own")
        print(import_edm_pickle(source, target or Path(source).with_suffix("")))
        return
    if Path(source).is_file():
        raise UserError(f"{source}: is not called FILE.pkl, and no folder of diffusers'; name one of these")
    name = Path(source).name or Path(source).resolve().name
    print(import_pipeline(source, target or Path("runs") / name, size=size))
