"""lightning-diff evaluate"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..foundation.errors import UserError
from ..runs import choices
from . import completion
from .as_json import AsJson, aside, print_json
from .options import PromptFile, SamplerOptions, choice, spread

if TYPE_CHECKING:
    from ..runs.evaluate import Evaluation
    from ..runs.evaluate_images import ImagesEvaluation


@spread
def evaluate(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run folder, the name of one in runs/, or a model file.",
            autocompletion=completion.runs,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Images in place of a RUN's samples: a folder, a zip or an .npz."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=1, metavar="N", help="Samples; default as many as held-out images.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="What to measure against: a recipe, a run, or a folder, zip or .npz of images; default the RUN's data.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Moments to measure against, for the Fréchet distance: EDM's .npz, EDM2's .pkl."
        ),
    ] = None,
    write_reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the moments of the data: an .npz as EDM's, or a .pkl as EDM2's."),
    ] = None,
    feature: Annotated[
        str | None,
        choice(
            "--feature", lambda: [*choices.features(), "inception"], "Feature space: {features}; default by the data."
        ),
    ] = None,
    prompts: PromptFile = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="By the classifier, figures for each class, too.")
    ] = False,
    search: Annotated[
        bool,
        typer.Option("--search", help="First find the consistency levels of least Fréchet distance, and keep them."),
    ] = False,
    min_recall: Annotated[
        float,
        typer.Option(
            "--min-recall", metavar="R", show_default=False, help="Of --search: only levels whose recall is at least R."
        ),
    ] = 0.0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Of --images, the table; default metrics.csv in or beside them."),
    ] = None,
    as_json: AsJson = False,
    *,
    sampler: SamplerOptions,
) -> None:
    """Measure a run's model, or images, against data.

    Every figure of a model goes to the run's metrics.csv with its protocol. Several processes measure what one does:
    torchrun --nproc-per-node 2 -m lightning_diff evaluate RUN -n 1000.
    """
    _refuse_what_does_not_go_together(
        sampler, folder, images, out, prompts, search=search, min_recall=min_recall, writes=write_reference is not None
    )
    from ..foundation.processes import is_first_process
    from ..runs.against import Against
    from ..runs.console import say
    from ..runs.evaluate import evaluate as measure
    from ..runs.evaluate_images import evaluate_images
    from ..runs.evaluate_images import write_reference as write
    from ..runs.process_group import joined
    from ..runs.prompts import given

    against = Against(data=data, moments=reference, feature=feature, write=write_reference)
    measured: Evaluation | ImagesEvaluation | None = None
    with joined(sampler.device) as device:
        with aside(as_json):
            if folder is not None:
                measured = measure(
                    folder, sampler.settings(device), n,
                    against=against, prompts=given(prompts), search=search,
                    min_recall=min_recall, per_class=per_class,
                )  # fmt: skip
            elif images is not None:
                seed = sampler.seed
                measured = evaluate_images(images, against, n, seed=seed, device=device, out=out, per_class=per_class)
            else:
                write(against, device)
        if as_json and is_first_process():
            print_json(_document(measured, write_reference))
        elif not as_json and measured is not None:
            say(str(measured))


def _document(measured: "Evaluation | ImagesEvaluation | None", reference: Path | None) -> dict[str, object]:
    """The rows that metrics.csv got, and which files were written; None measured nothing."""
    if measured is None:
        return {"figures": [], "remarks": [], "files": {"table": None, "reference": reference}}
    figures = [row.record() for row in measured.rows]
    return {
        "figures": figures,
        "remarks": measured.remarks,
        "files": {"table": measured.target, "reference": reference},
    }


def _refuse_what_does_not_go_together(
    sampler: SamplerOptions,
    folder: Path | None,
    images: Path | None,
    out: Path | None,
    prompts: Path | None,
    *,
    search: bool,
    min_recall: float,
    writes: bool,
) -> None:
    if not 0 <= min_recall < 1:
        raise UserError(f"--min-recall: must lie in [0, 1), got {min_recall:g}")
    if min_recall and not search:
        raise UserError("--min-recall: needs --search")
    if folder is None and images is None and not writes:
        raise UserError("evaluate: name a RUN, or images by --images")
    if folder is not None and images is not None:
        raise UserError(f"--images: is in place of a RUN; leave {folder} out, or --images")
    if images is None and out is not None:
        raise UserError("--out: is for --images; figures of a model go to its run's metrics.csv")
    if folder is None and prompts is not None:
        raise UserError("--prompts: is for the samples of a RUN; leave it out")
    if folder is None:
        what = "the images of --images are drawn already" if images is not None else "without a RUN nothing is drawn"
        sampler.refuse_given(what, but=("seed", "batch", "device"))
        if search:
            raise UserError(f"--search: {what}")
