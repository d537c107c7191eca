"""Figures of a run's model against the run's data or others, kept in its metrics.csv."""

from dataclasses import dataclass
from pathlib import Path

from ..artifacts import ModelRecord, keep_levels
from ..artifacts.metrics_table import MetricsTable
from ..autoencoders import Autoencoder
from ..condition import Prompts
from ..data import Data
from ..denoiser import Denoiser
from ..foundation import garbage
from ..foundation.errors import UserError
from ..foundation.processes import is_first_process
from ..metrics import Reference
from ..metrics.evaluate import Row
from ..metrics.evaluate_denoiser import evaluate_denoiser, table
from ..metrics.search_levels import Drawn, search_levels, search_start
from ..schedules.adaptive_sampling import PolicySampling
from ..schedules.sampling import SIGMA_MAX, Sampling, choose
from ..text import PromptList
from . import recipe, trained
from .against import Against, data_of
from .build import build_images
from .console import say
from .output import refuse_unwritable
from .prompts import asked, labelled
from .run_trackers import send_picture
from .sampler_settings import SamplerSettings
from .schedule_figure import save_picture


@dataclass(frozen=True)
class Evaluation:
    """Figures, each with its protocol, the table that they were added to, the steps that a sample took on average, and what is to
    be said of missing figures."""

    rows: list[Row]
    target: Path
    steps: float
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        protocol = self.rows[0].protocol
        guided = "" if protocol.guidance == 1 else f", guidance {protocol.guidance:g}"
        protocol_line = (
            f"n {protocol.n}, seed {protocol.seed}, {protocol.solver}, {self.steps:.4g} steps, {protocol.nfe:.4g} "
            f"evaluations each{guided}, weights {protocol.ema}, reference {protocol.reference}"
        )
        return "\n".join([table(self.rows), protocol_line, *self.remarks])


def evaluate(
    run: Path,
    settings: SamplerSettings,
    n: int | None = None,
    *,
    against: Against | None = None,
    prompts: PromptList | None = None,
    search: bool = False,
    min_recall: float = 0.0,
    per_class: bool = False,
) -> Evaluation:
    """Measure a run's model against its data or others; every figure goes to the run's metrics.csv with its protocol.

    Under a process group every process calls this; the first writes.

    Args:
        run: run folder, name of one in runs/, or model file.
        settings: of the sampler.
        n: samples; None for as many as there are held-out images.
        against: the reference; None for the run's own data in the feature space that suits them.
        prompts: that samples of a text-conditional model are drawn for; None for those of the data, or of its record.
        search: first find the levels of a consistency model with the least Fréchet distance, the first included unless it is
            given, and keep them.
        min_recall: of the search, least recall of a level, in [0, 1); 0 for no limit.
        per_class: figures for each class, too (see `metrics.evaluate`).

    Raises:
        UserError: before anything is measured, for whatever does not go together; and where no level has `min_recall`.
    """
    against = against or Against()
    model = trained.model(run)
    record, home = model.record, model.home
    sampling = _sampling(settings, record, search)
    if min_recall and against.moments is not None:
        raise UserError(
            "--min-recall: recall compares images, and --reference has moments alone; name images by --data"
        )
    wish = asked(model, prompts=prompts)
    settings.refuse_unfit_guidance(record)
    refuse_unwritable(home / "metrics.csv")
    against.check()
    autoencoder = model.autoencoder()
    data = _data(home, record, against.data, autoencoder)
    chosen = against.open(data, n)
    settings.say_doubt(record)
    denoiser, guide = model.load(settings.device), model.guide(settings.guide, settings.device)
    device = next(denoiser.parameters()).device
    told = labelled(wish.prompts, prompts, data) if prompts is not None else data.prompts or wish.prompts
    garbage.take_up()
    reference = chosen.reference(device)
    if search:
        sampling = _searched(model, denoiser, reference, settings, sampling, n, told, autoencoder, min_recall)
    rows = evaluate_denoiser(
        denoiser,
        reference,
        n,
        prompts=told,
        autoencoder=autoencoder,
        sampling=sampling,
        guidance=settings.guidance,
        guide=guide,
        interval=settings.interval,
        seed=settings.seed,
        ema=record.ema,
        batch=settings.batch,
        device=device,
        progress=is_first_process(),
        per_class=per_class,
        **settings.solver_options,
    )
    trained_for: dict[str, str | int | float | None] = {
        "step": record.images // data.batch_size if against.data is None else None,
        "images": record.images,
    }
    target = home / "metrics.csv"
    MetricsTable(target).log_rows([trained_for | row.record() for row in rows])
    steps = {row.metric: row.value for row in rows}.get("steps_mean", rows[0].protocol.steps or 0)
    if (home / "schedules").is_dir() and is_first_process():
        send_picture(home, "schedule", save_picture(home, max(round(steps), 1)), record)
    return Evaluation(rows, target, float(steps), (chosen.remark,) if chosen.remark else ())


def _sampling(settings: SamplerSettings, record: ModelRecord, search: bool) -> Sampling | PolicySampling:
    if search and settings.levels is not None:
        raise UserError("--search: is for levels, and --levels gives them")
    sampling = settings.sampling(record)
    if search and (sampling.solver != "consistency" or settings.grid is not None):
        raise UserError("--search: is for the levels of the solver consistency, without --grid")
    if search and sampling.steps == 1 and settings.sigma_max is not None:
        raise UserError("--search: of one step is for its level, and --sigma-max gives it")
    return sampling


def _data(home: Path, record: ModelRecord, where: str | None, autoencoder: Autoencoder | None) -> Data:
    """The data to measure against: of the run's recipe unless others are named; of latents, their images.

    UserError if the model, or its autoencoder, makes something else.
    """
    if where is None and not (home / "recipe.yaml").is_file():
        raise UserError(
            f"{home / 'recipe.yaml'}: no such file; evaluate needs the run's recipe to find its data, or --data"
        )
    data = build_images(recipe.read_yaml(home / "recipe.yaml", "data")) if where is None else data_of(where)
    shape = record.shape if autoencoder is None else autoencoder.image_shape(record.shape)
    is_of_text = record.conditions.takes_condition  # whose prompts may belong to any classes, or to none
    if tuple(data.shape) != tuple(shape) or (data.num_classes != record.num_classes and not is_of_text):
        raise UserError(
            f"{home}: the model makes {list(shape)} with {record.num_classes} classes, "
            f"the data have {list(data.shape)} with {data.num_classes}"
        )
    return data


def _searched(
    model: trained.Trained,
    denoiser: Denoiser,
    reference: Reference,
    settings: SamplerSettings,
    sampling: Sampling | PolicySampling,
    n: int | None,
    prompts: Prompts | None,
    autoencoder: Autoencoder | None,
    min_recall: float,
) -> Sampling | PolicySampling:
    """The levels of least Fréchet distance; kept in model.json where samples without guidance would use them."""
    assert isinstance(sampling, Sampling)
    drawn = Drawn(
        prompts=prompts,
        autoencoder=autoencoder,
        guidance=settings.guidance,
        interval=settings.interval,
        seed=settings.seed + 1,
        batch=settings.batch,
        progress=is_first_process(),
    )
    start = settings.sigma_max if settings.sigma_max is not None else model.record.sigma_max
    levels = search_levels(
        denoiser, reference, n, steps=sampling.steps, sigma_max=start, min_recall=min_recall, **drawn
    )
    if settings.sigma_max is None:
        start = search_start(denoiser, reference, n, levels=levels, sigma_max=start, min_recall=min_recall, **drawn)
    kept = "for these options alone, and not kept"
    if settings.guidance == 1 and settings.sigma_max is None:
        if is_first_process():
            keep_levels(model.path, levels, start)
        kept = "kept in model.json"
    say(f"best levels: {', '.join(f'{level:.3g}' for level in (start or SIGMA_MAX, *levels))}; {kept}")
    return choose(model.record, "consistency", levels=levels, sigma_max=start)
