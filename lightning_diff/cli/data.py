"""lightning-diff data inspect, data prepare, data encode"""

from pathlib import Path
from typing import Annotated

import typer

from .command import Command
from .completion import recipes_and_runs

data = typer.Typer(
    name="data",
    help="Look at images before training, prepare and encode them.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
Images = Annotated[Path, typer.Argument(metavar="PATH", help="A folder or a zip of images.")]
Resize = Annotated[str, typer.Option(metavar="HOW", help="How images come to that size: centre_crop, pad or stretch.")]
Filter = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="That shrinks them: area, lanczos (EDM's dataset tool) or adm (ADM's center_crop_arr)."
    ),
]


@data.command(cls=Command)
def inspect(
    path: Images,
    size: Annotated[
        int | None, typer.Option(metavar="N", help="Look at images as training at N x N sees them.")
    ] = None,
    resize: Resize = "centre_crop",
    filter: Filter = "area",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and draw nothing without --picture.")] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Where to draw some images; by default NAME_samples.png.")
    ] = None,
) -> int:
    """Say what images there are, and which are broken.

    Sizes, classes, broken files by name, standard deviation and the sigma_data that follows from it; and a picture of some images.
    All are read. The exit code is 1 if any is broken.
    """
    import json

    from ..data.inspection import framing_of
    from ..data.inspection import inspect as inspecting
    from ..foundation.errors import UserError
    from ..runs.data_report import draw, print_table

    if picture is not None and picture.suffix != ".png":
        raise UserError(f"--picture: {picture} does not end in .png")
    found = inspecting(path, framing_of(size, resize, filter))
    if picture is None and not as_json:
        picture = Path(f"{path.resolve().stem}_samples.png")
    if as_json:
        print(json.dumps(found.record(), indent=1))
    else:
        print_table(found)
    if picture is not None and found.samples is not None:
        try:
            draw(found, picture)
        except OSError as error:
            raise UserError(f"--picture: {picture} cannot be written: {error.strerror or error}") from error
        if not as_json:
            print(picture)
    return int(bool(found.broken))


@data.command(cls=Command)
def prepare(
    path: Images,
    out: Annotated[Path, typer.Argument(metavar="OUT.zip", help="The zip to write.")],
    size: Annotated[int, typer.Option(metavar="N", help="Images of N x N pixels.")],
    resize: Resize = "centre_crop",
    filter: Filter = "lanczos",
) -> None:
    """Write images of one size, with their classes, as a zip.

    PNGs and a dataset.json, which `data.Images` and the training programs of EDM and EDM2 read.
    """
    from ..data.inspection import framing_of
    from ..data.prepare import prepare as preparing
    from ..foundation.errors import UserError

    if (framing := framing_of(size, resize, filter)) is None:
        raise UserError("--size: is needed")
    print(preparing(path, out, framing))


@data.command(cls=Command)
def encode(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="File or packaged name.", autocompletion=recipes_and_runs)
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value...]", help="What to change in it.")
    ] = None,
) -> None:
    """Make a recipe's latents and text embeddings, ahead of training.

    They go into the cache, from where training reads them; a start of training without them makes them likewise. The size is said
    before anything is written, and must not exceed data.max_gib.

    Killed in the middle, the same command goes on where it was, and so does `train`. As many processes share the work as
    trainer.devices says, one on each GPU, and whoever else gives the same command meanwhile.
    """
    from ..runs import recipe

    settings, source = recipe.load(name, overrides or []), recipe.find(name)
    from ..runs.encode import encode as encoding

    encoding(settings, source, [name, *(overrides or [])])
