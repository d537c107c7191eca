"""The command line: lightning-diff train | sample | evaluate | schedule | compare | export | doctor; errors become exit codes.

0: done. 1: doctor found something broken. 2: a mistake that one line on stderr explains. 130 for Ctrl-C, and 75 for SIGTERM and
SIGUSR1, by which schedulers take a machine back: the job may go back into the queue. A run saves first in each of these cases.
Anything else is a fault of this program and shows a traceback, as `--debug` does for every error.
"""

import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from ..foundation.atomic import replacing
from ..foundation.errors import Stopped, UserError
from ..runs import recipe
from .solver_names import NamesSolvers

app = typer.Typer(
    help="Train diffusion models from recipes, sample from them, measure them.",
    epilog="An error is one line; --debug, anywhere on the line, adds the traceback.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, the name of one in runs/, or a model file.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Solver steps; default 18, or 2 for a consistency model.")]
Solver = Annotated[str | None, typer.Option(help="{solvers}; default by the model.")]
Grid = Annotated[
    str | None, typer.Option(help="Noise levels: karras, log_snr, uniform or tangent; default by the solver.")
]
Levels = Annotated[
    str | None, typer.Option(help="For consistency: its noise levels after the first, 0.8,0.3 for instance.")
]
ScheduleFile = Annotated[
    Path | None,
    typer.Option(
        "--schedule",
        metavar="PATH",
        help="A schedule.json, or a run with one: its grid and its solver; or a step_policy.safetensors.",
    ),
]
Guidance = Annotated[float, typer.Option(help="Scale; 1 is none.")]
Batch = Annotated[int, typer.Option(min=1, help="Images at a time; the samples do not depend on it.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes a GPU if there is one.")]


@app.command()
def train(
    words: Annotated[list[str], typer.Argument(metavar="RECIPE... [key=value...]", help="Files or packaged names.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and what follows.")] = False,
) -> None:
    """Train one recipe after another; overrides apply to all of them."""
    overrides = [word for word in words if recipe.is_override(word)]
    paths = [word for word in words if not recipe.is_override(word)]
    if not paths:
        raise UserError("train: name a recipe, for instance digits_edm")
    # All of them are checked before the first trains: hours later is too late for a misspelling.
    loaded = [(recipe.load(path, overrides), recipe.find(path)) for path in paths]
    taken: dict[Path, Path] = {}
    for settings, source in loaded:
        folder = Path(settings["runs_dir"]) / settings["name"]
        if folder in taken:
            raise UserError(f"{source}: name: {taken[folder]} trains in {folder} too; each run needs its own name")
        taken[folder] = source
    processes = {str([settings["trainer"].get(key) for key in ("devices", "num_nodes")]) for settings, _ in loaded}
    if len(processes) > 1:  # the processes that the first one starts would go on to the next one
        raise UserError(
            "train: recipes of one command need the same trainer.devices and num_nodes; train them one by one"
        )
    from ..runs import train as run

    for settings, source in loaded:
        if dry_run:
            print(run.describe(settings, source))
        else:
            run.train(settings, source)


@app.command(cls=NamesSolvers)
def sample(
    folder: Run,
    n: Annotated[int, typer.Option(min=1, help="Number of samples.")] = 64,
    steps: Steps = None,
    solver: Solver = None,
    grid: Grid = None,
    levels: Levels = None,
    schedule: ScheduleFile = None,
    labels: Annotated[str, typer.Option(help="Classes, cycled through: 0,1,2 or all or none.")] = "all",
    seed: Annotated[int, typer.Option(help="Another seed, other samples.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="PICTURE.png (a grid), FILE.npz or a folder of PNGs; default in the run folder.")
    ] = None,
    guidance: Guidance = 1.0,
    guide: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A worse model to guide by; without it, this one without labels.")
    ] = None,
    interval: Annotated[tuple[float, float], typer.Option(help="Noise levels at which to guide.")] = (
        0.0,
        float("inf"),
    ),
    churn: Annotated[float, typer.Option(min=0.0, help="EDM's S_churn: fresh noise, for {churned}.")] = 0.0,
    sigma_min: Annotated[float | None, typer.Option(help="Smallest noise level; default 0.002.")] = None,
    sigma_max: Annotated[float | None, typer.Option(help="Largest noise level; default 80.")] = None,
    batch: Batch = 256,
    device: Device = "auto",
) -> None:
    """Draw samples: the same ones for the same seed, whatever the batch or device."""
    from .. import artifacts
    from ..artifacts import pictures
    from ..samplers import CHURNED, either
    from ..samplers.generate import generate
    from ..samplers.guidance import takes_scale
    from ..schedules.adaptive_sampling import PolicySampling, sample_with_policy
    from ..schedules.sampling import Sampling
    from . import options

    path = options.model(folder)
    record = artifacts.read_record(path)
    sampling: Sampling | PolicySampling
    if schedule is None:
        bounds = {"sigma_min": sigma_min, "sigma_max": sigma_max}
        asked = {name: value for name, value in bounds.items() if value is not None}
        sampling = options.sampling(record, solver, steps, grid, levels, churn=churn, **asked)
    else:
        given: dict[str, object] = {"--grid": grid, "--levels": levels}
        given |= {"--sigma-min": sigma_min, "--sigma-max": sigma_max}
        sampling = options.scheduled(record, schedule, solver, steps, given)
        if churn and (sampling.solver not in CHURNED or isinstance(sampling, PolicySampling)):
            raise UserError(f"--churn: is for the solver {either(CHURNED)} on a grid, not {sampling.name}")
    of_schedule = "" if schedule is None else sampling.name.partition("/")[2].replace("@", "_of_") + "_"
    default = options.home(path) / "samples" / f"{sampling.solver}{sampling.steps}_{of_schedule}seed{seed}"
    target = options.writable(out, default, record["shape"])
    classes = options.classes(labels, record["num_classes"])
    if guidance != 1 and guide is None and classes is None:
        raise UserError("--guidance: needs --labels, so that the model without them can be the guide, or a --guide")
    options.check_guidance(record, guidance, guide)
    if interval[0] > interval[1]:
        raise UserError(f"--interval: the first level must not exceed the second, got {interval[0]:g} {interval[1]:g}")
    denoiser, guiding = options.load(path, device), None
    if guide is not None:
        guiding = options.load(options.model(guide), device)
        if artifacts.read_record(options.model(guide))["shape"] != record["shape"]:
            raise UserError(f"--guide: {guide} makes samples of another shape than {folder}")
    churning: dict[str, Any] = {"S_churn": churn} if churn else {}
    wanted = None if classes is None else options.cycled(classes, n)
    how: dict[str, Any] = {"seed": seed, "guidance": guidance, "guide": guiding, "interval": interval}
    how |= {"batch": batch, "progress": True}
    if isinstance(sampling, PolicySampling):
        samples, taken = sample_with_policy(denoiser, record["shape"], range(n), wanted, policy=sampling.policy, **how)
        calls = sampling.policy.evaluations(taken).double().mean()
        guided = " and the guide's" if guidance != 1 and not takes_scale(denoiser) else ""
        mean = f"{taken.double().mean():.2f} steps and {calls:.2f} evaluations{guided}"
        print(f"{sampling.name}: a mean of {mean}, from {taken.min()} to {taken.max()} steps")
    else:
        samples = generate(
            denoiser,
            record["shape"],
            range(n),
            wanted,
            sigmas=sampling.sigmas,
            solver=sampling.solver,
            **how,
            **churning,
        )
    if target.suffix == ".npz":
        pictures.save_npz(target, samples, wanted)
    elif target.suffix == ".png":
        shown = [] if classes is None or len(classes) > 20 else [str(int(label)) for label in classes]
        pictures.save_grid(target, samples, columns=min(len(shown), n) or None, column_names=shown)
    else:
        pictures.save_folder(target, samples)
    print(f"{n} samples in {target}")


@app.command(cls=NamesSolvers)
def evaluate(
    folder: Run,
    n: Annotated[int | None, typer.Option(min=1, help="Samples; default as many as held-out images.")] = None,
    steps: Steps = None,
    solver: Solver = None,
    grid: Grid = None,
    levels: Levels = None,
    schedule: ScheduleFile = None,
    search: Annotated[
        bool,
        typer.Option("--search", help="First find the consistency levels of least Fréchet distance, and keep them."),
    ] = False,
    guidance: Guidance = 1.0,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    feature: Annotated[
        str | None, typer.Option(help="Feature space: classifier, rotation, pixels or inception; default by the data.")
    ] = None,
    batch: Batch = 256,
    device: Device = "auto",
) -> None:
    """Measure a run's model against its data; every figure goes to the run's metrics.csv with its protocol."""
    from .. import artifacts
    from ..schedules.adaptive_sampling import PolicySampling
    from ..schedules.sampling import Sampling
    from . import options

    path = options.model(folder)
    record = artifacts.read_record(path)
    home = options.home(path)
    if search and levels is not None:
        raise UserError("--search: is for levels, and --levels gives them")
    sampling: Sampling | PolicySampling
    if schedule is None:
        sampling = options.sampling(record, solver, steps, grid, levels)
    else:
        sampling = options.scheduled(record, schedule, solver, steps, {"--grid": grid, "--levels": levels})
    if search and (sampling.solver != "consistency" or sampling.steps < 2 or grid is not None):
        raise UserError("--search: is for the levels of the solver consistency from two steps on, without --grid")
    options.check_guidance(record, guidance)
    if guidance != 1 and not record["num_classes"]:
        raise UserError("--guidance: this model has no classes to be guided by")
    if not (home / "recipe.yaml").is_file():
        raise UserError(f"{home / 'recipe.yaml'}: no such file; evaluate needs the run's recipe to find its data")
    settings = recipe.read_yaml(home / "recipe.yaml", "data")
    table = options.table(home / "metrics.csv")
    denoiser = options.load(path, device)

    from ..metrics import Reference
    from ..metrics.evaluate_denoiser import evaluate_denoiser, search_levels
    from ..metrics.evaluate_denoiser import table as as_text
    from ..metrics.features import FeatureName
    from ..runs.train import build_data

    if feature is not None:
        options.check("--feature", feature, get_args(FeatureName))
    data = build_data(settings)
    if list(data.shape) != record["shape"] or data.num_classes != record["num_classes"]:
        raise UserError(
            f"{home}: the model makes {record['shape']} with {record['num_classes']} classes, "
            f"the data have {list(data.shape)} with {data.num_classes}"
        )
    where = next(denoiser.parameters()).device
    reference = Reference(data, feature, device=where)  # type: ignore[arg-type]
    if search:
        found = search_levels(
            denoiser, reference, n, steps=sampling.steps, guidance=guidance, seed=seed + 1, batch=batch
        )
        kept = "kept in model.json"
        if guidance == 1:
            artifacts.keep_levels(path, found)
        else:  # where samples without guidance would use them
            kept = f"for guidance {guidance:g} alone, and not kept"
        sampling = options.sampling(record, solver, None, None, ",".join(map(str, found)))
        print(f"best levels after the first: {', '.join(f'{level:.3g}' for level in found)}; {kept}")
    rows = evaluate_denoiser(
        denoiser,
        reference,
        n,
        sampling=sampling,
        guidance=guidance,
        seed=seed,
        ema=record["ema"],
        batch=batch,
        device=where,
        progress=True,
    )
    trained = {"step": record["images"] // data.batch_size, "images": record["images"]}
    table.log_rows([trained | row.record() for row in rows])
    protocol = rows[0].protocol
    taken = {row.metric: row.value for row in rows}.get("steps_mean", protocol.steps or 0)
    if (home / "schedules").is_dir():
        from ..runs.schedule_figure import save_picture

        save_picture(home, max(round(taken), 1))
    print(as_text(rows))
    print(
        f"n {protocol.n}, seed {seed}, {protocol.solver}, {taken:.4g} steps, {protocol.nfe:.4g} evaluations each, "
        f"weights {protocol.ema}, reference {protocol.reference}"
    )


@app.command(cls=NamesSolvers)
def schedule(
    folder: Run,
    method: Annotated[
        str,
        typer.Option(
            help="art_solver, art, optimised, art_rl, end_point, gits, ays, edm, edm_free, log_snr, uniform or tangent."
        ),
    ] = "art_solver",
    steps: Annotated[int, typer.Option(min=1, help="Solver steps.")] = 18,
    solver: Annotated[str, typer.Option(help="{ode_solvers}: what the grid is for.")] = "heun",
    trajectories: Annotated[int | None, typer.Option(min=2, help="To learn from; 256.")] = None,
    seed: Annotated[int, typer.Option(help="Of their noise.")] = 0,
    guidance: Guidance = 1.0,
    sigma_min: Annotated[float, typer.Option(help="Smallest noise level that is looked at.")] = 0.002,
    sigma_max: Annotated[float, typer.Option(help="Largest noise level, where sampling starts.")] = 80.0,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="A copy of the schedule.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Trajectories at a time.")] = 64,
    device: Device = "auto",
) -> None:
    """Find the noise levels that make a model best in few steps; they go to the run's schedule.json, with a picture."""
    from .. import artifacts
    from ..artifacts.schedule import save_schedule
    from ..runs.find_schedule import TRAINED, find
    from ..samplers import ODE_SOLVERS
    from ..schedules.search import METHODS
    from . import options

    path = options.model(folder)
    record = artifacts.read_record(path)
    options.check("--method", method, [*METHODS, *TRAINED])
    options.check("--solver", solver, ODE_SOLVERS)
    if record["kind"] == "consistency":
        raise UserError(f"{folder}: is a consistency model, whose levels evaluate --search finds")
    options.check_guidance(record, guidance)
    if guidance != 1 and not record["num_classes"]:
        raise UserError("--guidance: this model has no classes to be guided by")
    if not 0 < sigma_min < sigma_max:
        raise UserError(f"--sigma-min, --sigma-max: need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out: {out} does not end in .json")
    denoiser = options.load(path, device)

    from ..runs.schedule_figure import save_picture

    found = find(
        path,
        denoiser,
        method,
        steps,
        solver,
        trajectories=trajectories,
        seed=seed,
        guidance=guidance,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        batch=batch,
        progress=True,
    )
    home = options.home(path)
    if out is not None:
        save_schedule(out, found)
    picture = save_picture(home, steps)
    print(", ".join(f"{sigma:.4g}" for sigma in found.sigmas))
    print(f"{home / 'schedule.json'}, {picture}: {method} for {solver}, {found.costs.get('seconds', 0):.1f} s")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or names of runs in runs/.")],
    out: Annotated[Path, typer.Option(help="The picture; the table goes beside it, as .csv.")] = Path("compare.png"),
) -> None:
    """Draw several runs' losses per noise level in one picture, and put their final figures in one table."""
    from ..runs import compare as comparing
    from . import options

    runs = comparing.read([options.home(options.model(folder)) for folder in folders])
    if out.suffix != ".png":
        raise UserError(f"--out: {out} does not end in .png")
    options.writable(out, out, [3, 1, 1])
    with replacing(out) as temporary:
        comparing.draw(runs).savefig(temporary, dpi=110)
    protocol = comparing.common_protocol(runs)  # after the picture: the losses compare whatever the figures do
    rows = comparing.table(runs, protocol)
    comparing.write_table(out.with_suffix(".csv"), rows)
    print(comparing.as_text(runs, rows))
    if protocol is not None:
        print(", ".join(f"{name} {value}" for name, value in zip(comparing.COMPARABLE, protocol, strict=True)))
    print(f"{out}, {out.with_suffix('.csv')}")


@app.command()
def export(
    folder: Run,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default the run's own.")] = None,
    ema: Annotated[str | None, typer.Option(help="Name of an average, or none; default the first.")] = None,
    sigma_rel: Annotated[float | None, typer.Option(help="Reconstruct an average of this width instead.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Moment of the reconstructed average.")] = None,
) -> None:
    """Write model.safetensors and model.json from the newest checkpoint."""
    from ..runs.export import export as write
    from . import options

    print(write(options.home(options.model(folder)), out, profile=ema, sigma_rel=sigma_rel, images=images))


@app.command()
def doctor(folder: Run) -> int:
    """Say what is in a run folder, what is broken, and what resuming would do; exit code 1 if anything is broken."""
    from ..runs import doctor as examining
    from . import options

    findings = examining.examine(options.home(options.model(folder)))
    print(examining.as_text(findings))
    return int(any(finding.kind == "broken" for finding in findings))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    recipe.make_importable(Path.cwd())
    plain, warnings.formatwarning = warnings.formatwarning, _one_line  # type: ignore[assignment]
    try:
        code, message = app(words, "lightning-diff", standalone_mode=False) or 0, None
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):  # what Lightning makes of Ctrl-C before the first step
            raise
        code, message = 130, None
    except Exception as error:
        code, message = _verdict(error)
        if not code:
            raise
        if debug:
            traceback.print_exc()
    finally:
        warnings.formatwarning = plain
    if message or code == 130:  # typer, too, makes this of Ctrl-C
        print(message or "stopped by Ctrl-C", file=sys.stderr)
    return code


def _verdict(error: Exception) -> tuple[int, str]:
    """Exit code and message for an error that is somebody's; 0 for one that is a fault of the program."""
    if isinstance(error, UserError):
        return 2, f"error: {' '.join(str(error).split())}"
    if isinstance(error, Stopped):
        return error.exit_code, str(error)
    if isinstance(error, typer.Abort):  # what older typers make of Ctrl-C
        return 130, "stopped by Ctrl-C"
    if hasattr(error, "format_message"):  # typer's own complaints about the command line
        return 2, f"error: {error.format_message()}"
    return 0, ""


def _one_line(message: Warning | str, *_: Any) -> str:
    return f"warning: {' '.join(str(message).split())}\n"
