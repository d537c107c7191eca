"""The picture of a run's schedules: the grids side by side, what they follow, and how far they brought the samples."""

from collections import defaultdict
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..artifacts.estimate import read_estimate
from ..artifacts.metrics_columns import PROTOCOL
from ..artifacts.metrics_rows import read
from ..artifacts.schedule import Schedule, load_schedule
from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from ..schedules import karras


def save_picture(home: Path, steps: int) -> Path:
    """Draw `schedule.png` in a run folder. `steps`: of the grids that are shown, beside EDM's.

    Returns the picture's path.
    """
    figure = Figure(figsize=(11, 10), layout="constrained")
    grids, monitor, quality = figure.subplots(3, 1)
    _grids(grids, _schedules(home, steps), steps)
    _monitors(monitor, home)
    _qualities(quality, home)
    path = home / "schedule.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path


def _schedules(home: Path, steps: int) -> list[Schedule]:
    found = []
    for path in sorted((home / "schedules").glob(f"*_{steps}.json")):
        try:
            found.append(load_schedule(path))
        except UserError:
            continue  # a damaged file is found again by the next `schedule`, and is no reason to show nothing
    return found


def _grids(axes: Axes, schedules: list[Schedule], steps: int) -> None:
    rows = [("EDM, ρ = 7", karras(steps))]
    rows += [(f"{schedule.method}\nfor {schedule.solver}", schedule.grid()) for schedule in schedules]
    for y, (_, sigmas) in enumerate(rows):
        axes.plot(sigmas[:-1], [y] * (len(sigmas) - 1), "o-", markersize=5, linewidth=0.5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.invert_yaxis()
    axes.set_title(f"noise levels of {steps} steps (the last step goes to 0)")
    axes.set_xlabel("noise level σ        ← noisier      cleaner →")


def _monitors(axes: Axes, home: Path) -> None:
    for path in sorted((home / "schedules").glob("monitor_*.json")):
        try:
            found = read_estimate(path)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        sigma = torch.logspace(
            found.sigmas[-1].log10().item(), found.sigmas[0].log10().item(), 300, dtype=torch.float64
        )
        share = found.density(sigma) * sigma
        share = share / torch.trapezoid(share, sigma.log())
        name = path.stem.removeprefix("monitor_")
        axes.plot(sigma, share, label=f"{name} (order {found.order}, {found.trajectories} trajectories)")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_title("where a solver's local error wants its nodes")
    axes.set_xlabel("noise level σ")
    axes.set_ylabel("share of nodes, per unit of ln σ")
    if axes.lines:
        axes.legend()


def _qualities(axes: Axes, home: Path) -> None:
    """Fréchet distances over evaluations, by solver and grid, from the run's metrics.csv: those comparable with the newest."""
    table = home / "metrics.csv"
    rows = (
        [row for row in read(table) if row["metric"].startswith("frechet_") and row["nfe"]] if table.is_file() else []
    )
    same = (
        "metric",
        "images",
        *(name for name in PROTOCOL if name not in ("seed", "solver", "steps", "nfe", "sigmas")),
    )
    rows = [row for row in rows if all(row[name] == rows[-1][name] for name in same)]
    metric = rows[-1]["metric"] if rows else None
    curves: dict[str, dict[float, float]] = defaultdict(dict)
    for row in rows:
        levels = row["sigmas"].partition(" ")[0]
        elsewhere = "" if levels == rows[-1]["sigmas"].partition(" ")[0] else f" from {levels}"
        curves[row["solver"] + elsewhere][float(row["nfe"])] = float(row["value"])
    for name, points in sorted(curves.items()):
        nfe = sorted(points)
        axes.plot(nfe, [points[key] for key in nfe], "o-", label=name)
    axes.set_title("quality: lightning-diff evaluate RUN --schedule PATH adds points")
    axes.set_xlabel("evaluations of the network for each sample")
    if metric is not None:
        axes.set_ylabel(metric)
        axes.set_yscale("log")
        axes.legend()
