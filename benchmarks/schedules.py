"""Which time grid? Every method, solver and budget on equal terms, over several models; transfer of grids; what they cost.

    python benchmarks/schedules.py --runs RUN [RUN ...] [--cifar cifar10-train.zip] [--out FOLDER]

For each model (a run folder of class-conditional images; and, with --cifar, the exact denoiser of --images of those pictures) every
method of `schedules.search` learns a grid for every solver and budget from the same noise, and draws --n samples from other noise.
The Fréchet distance is to the training images: for a run in the feature space of its data, for the pictures in the space of their
own 64 principal components. NFE n is n steps of a multistep solver or of Euler's, (n + 1) / 2 of Heun's.

`art_rl` and `end_point` are trained here as recipes/digits_art.yaml and digits_end_point.yaml do, with --updates of --batch
trajectories; the first one once for a model, its grid resampled. --schedules NAME=PATH ... puts grids found elsewhere beside them;
{model} in a path stands for the model's name, and a grid of another number of steps is resampled.

Finished cells are rows of FOLDER/cells.csv, and a further call continues with those that are missing; FOLDER/schedules.md has the
tables, mean and spread over models, and FOLDER/schedules.png the curves.
"""

import argparse
import csv
import io
import statistics
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image
from torch import Tensor

from lightning_diff import oracle
from lightning_diff.artifacts import load_denoiser, load_schedule
from lightning_diff.artifacts.pictures import to_uint8
from lightning_diff.foundation import rng
from lightning_diff.learning_rate import Cosine
from lightning_diff.metrics import frechet_distance
from lightning_diff.metrics.features import feature_extractor
from lightning_diff.runs import recipe
from lightning_diff.samplers import ODE_SOLVERS
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules import GRIDS, StickBreaking, resample, tangent
from lightning_diff.schedules.art import Estimate, estimate
from lightning_diff.schedules.environments import EndPoint, Surrogate
from lightning_diff.schedules.grids import through_angles
from lightning_diff.schedules.optimised import optimised
from lightning_diff.schedules.search import LEARNED, METHODS

BUDGETS = (3, 5, 7, 9, 13, 19, 35)
TRANSFERRED = (7, 11, 17, 23)  # NFE that the grid of 18 steps is resampled to
COLUMNS = ("kind", "problem", "solver", "method", "nfe", "frechet", "seconds", "calls", "sigmas")
FIXED = [name for name in METHODS if name not in LEARNED]
TRAINED = ("art_rl", "end_point")


class Problem(NamedTuple):
    """A model and what its samples are measured by."""

    family: str
    name: str
    model: Callable[..., Tensor]
    shape: tuple[int, ...]
    classes: int
    sigma_data: float
    frechet: Callable[[Tensor], float]

    def noise(self, n: int) -> Tensor:
        return rng.normal(0, "schedule", range(n), self.shape)

    def labels(self, n: int) -> Tensor | None:
        return torch.arange(n) % self.classes if self.classes else None


def moments(features: Tensor) -> tuple[Any, Any]:
    return features.double().mean(0), features.double().T.cov()


def of_run(path: Path) -> Problem:
    from lightning_diff.runs.build import build_data

    denoiser = load_denoiser(path)
    data = build_data(recipe.read_yaml(path / "recipe.yaml", "data"))
    extractor = feature_extractor(None, data)
    with torch.no_grad():
        real = moments(extractor(data.train.images(np.arange(len(data.train)))))

    @torch.no_grad()
    def frechet(images: Tensor) -> float:
        return frechet_distance(*moments(extractor(to_uint8(images).float() / 127.5 - 1)), *real)

    return Problem("run", path.name, denoiser, tuple(data.shape), data.num_classes, denoiser.sigma_data, frechet)


def of_pictures(path: Path, count: int) -> Problem:
    """The finite data set of some of the zip's pictures: their exact denoiser."""
    with zipfile.ZipFile(path) as file:
        names = sorted(name for name in file.namelist() if name.endswith((".png", ".jpg")))
        chosen = [names[i] for i in rng.permutation(0, "pictures", 0, len(names))[:count]]
        arrays = [np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB")) for name in chosen]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
    flat = images.flatten(1).double()
    _, _, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    real = moments(flat @ axes[:64].T)

    def frechet(samples: Tensor) -> float:
        return frechet_distance(*moments(samples.flatten(1).double() @ axes[:64].T), *real)

    return Problem(
        "pictures",
        f"pictures_{count}",
        oracle.Dataset(images),
        tuple(images.shape[1:]),
        0,
        float(images.std()),
        frechet,
    )


class Counted:
    """A model with its evaluations by one sample counted."""

    def __init__(self, model: Callable[..., Tensor]):
        self.model, self.calls = model, 0

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += len(x)
        return self.model(x, sigma, label)


class Bench:
    def __init__(self, options: argparse.Namespace):
        self.options, self.path = options, options.out / "cells.csv"
        self.estimates: dict[tuple[str, str], tuple[Estimate, float, int]] = {}
        self.learned: dict[str, Tensor] = {}
        options.out.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self.path.write_text(",".join(COLUMNS) + "\n")
        with self.path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
        self.rows = {tuple(row[name] for name in COLUMNS[:5]): row for row in rows}

    def cell(self, kind: str, problem: Problem, solver: str, method: str, nfe: int, make: Callable[[], Any]) -> Tensor:
        """Measure the grid that `make` returns with its seconds and calls, unless that was done; returns the grid."""
        key = (kind, problem.name, solver, method, str(nfe))
        if key not in self.rows:
            sigmas, seconds, calls = make()
            samples = generate(
                problem.model,
                problem.shape,
                range(self.options.n),
                problem.labels(self.options.n),
                sigmas=sigmas,
                solver=solver,
                seed=1,
            )
            distance = problem.frechet(samples)
            levels = " ".join(f"{sigma:.8g}" for sigma in sigmas.tolist())
            values = (*key, f"{distance:.6g}", f"{seconds:.3f}", str(calls), levels)
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow(values)
            self.rows[key] = dict(zip(COLUMNS, values, strict=True))
            print(" ".join(values[:8]), flush=True)
        return torch.tensor([float(sigma) for sigma in self.rows[key]["sigmas"].split()], dtype=torch.float64)

    def find(self, problem: Problem, solver: str, method: str, steps: int) -> tuple[Tensor, float, int]:
        """The grid by this method, the seconds and the evaluations; what `art` measures is measured once."""
        start, model, n = time.perf_counter(), Counted(problem.model), self.options.trajectories
        noise, labels = problem.noise(n), problem.labels(n)
        if method in ("art", "art_solver", "optimised"):
            own = "euler" if method == "art" else solver
            key = (problem.name, own)
            if key not in self.estimates:
                found = estimate(model, noise, solver=own, labels=labels)
                self.estimates[key] = found, time.perf_counter() - start, model.calls
            found, seconds, calls = self.estimates[key]
            if method != "optimised":
                return found.grid(steps), seconds, calls
            start, model.calls = time.perf_counter(), 0
            options = {"iterations": self.options.iterations, "batch": 32, "start": found.grid(steps)}
            sigmas = optimised(model, noise, steps, solver=solver, labels=labels, **options)
            return sigmas, seconds + time.perf_counter() - start, calls + model.calls
        if method == "tangent":
            sigmas = tangent(steps, sigma_data=problem.sigma_data)
        elif method == "art_rl":
            if problem.name not in self.learned:
                self.learned[problem.name] = self.train(
                    problem, model, StickBreaking(32, sigma_data=problem.sigma_data, environment=Surrogate()), 1e-3
                )
            sigmas = through_angles(self.learned[problem.name], steps, problem.sigma_data)
        elif method == "end_point":
            environment = EndPoint(solver, 16)
            sigmas = self.train(
                problem, model, StickBreaking(steps, sigma_data=problem.sigma_data, environment=environment), 3e-3
            )
        else:
            sigmas = METHODS[method](model, noise, steps, solver=solver, labels=labels)
        return sigmas, time.perf_counter() - start, model.calls

    def train(self, problem: Problem, model: Counted, learner: StickBreaking, rate: float) -> Tensor:
        batch, updates = self.options.batch, self.options.updates
        optimiser, factor = torch.optim.Adam(learner.parameters(), lr=rate), Cosine(updates, max(1, updates // 15))
        for update in range(updates):
            positions = range(update * batch, (update + 1) * batch)
            noise = rng.normal(0, "noise", positions, problem.shape)
            labels = torch.tensor(positions) % problem.classes if problem.classes else None
            loss, details = learner(model, noise, learner.exploration_noise(0, positions), labels)
            optimiser.zero_grad()
            loss.mean().backward()
            for group in optimiser.param_groups:
                group["lr"] = rate * factor(update + 1)
            optimiser.step()
            learner.learn(details)
        return learner.grid()

    def run(self, problem: Problem) -> None:
        for solver in self.options.solvers:
            self.cell("main", problem, solver, "fine", 0, lambda: (GRIDS["karras"](80), 0.0, 0))
            for method in self.options.methods:
                for nfe in self.options.nfe:
                    make = lambda s=solver, m=method, n=nfe: self.find(problem, s, m, steps_of(s, n))  # noqa: E731
                    self.cell("main", problem, solver, method, nfe, make)
            for name, path in self.options.schedules:
                given = load_schedule(str(path).format(model=problem.name))
                costs = given.costs.get("seconds", 0.0), int(given.costs["calls"])
                for nfe in self.options.nfe:
                    sigmas = through_angles(given.grid(), steps_of(solver, nfe), problem.sigma_data)
                    self.cell("main", problem, solver, name, nfe, lambda s=sigmas, c=costs: (s, *c))

    def transfer(self, problem: Problem, others: list[Problem]) -> None:
        """The grid of 18 Heun steps at other budgets, and the grids of another model."""
        solver, given = "heun", [name for name, _ in self.options.schedules]
        for method in [*self.options.methods, *given]:
            key = ("main", problem.name, solver, method, "35")
            if key not in self.rows:
                continue
            grid = torch.tensor([float(sigma) for sigma in self.rows[key]["sigmas"].split()], dtype=torch.float64)
            for nfe in TRANSFERRED:
                again = lambda g=grid, n=nfe: (resample(g, steps_of(solver, n)), 0.0, 0)  # noqa: E731
                self.cell("resampled", problem, solver, method, nfe, again)
            for other in others if method not in FIXED else []:
                for nfe in self.options.nfe:
                    key = ("main", other.name, solver, method, str(nfe))
                    if key in self.rows:
                        levels = [float(sigma) for sigma in self.rows[key]["sigmas"].split()]
                        given = torch.tensor(levels, dtype=torch.float64)
                        self.cell(f"from {other.family}", problem, solver, method, nfe, lambda g=given: (g, 0.0, 0))


def steps_of(solver: str, nfe: int) -> int:
    return (nfe + 1) // 2 if solver == "heun" else nfe


def tables(rows: list[dict[str, str]], families: dict[str, str]) -> str:
    """Every kind of cell as a table: mean over models ± half the range, the best of a column in bold; and what grids cost."""
    found: dict[tuple[str, ...], dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    costs: dict[tuple[str, str, str], list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        family = families.get(row["problem"], row["problem"])
        cells = found[row["kind"], family, row["solver"]][row["method"]]
        cells.setdefault(int(row["nfe"]), []).append(float(row["frechet"]))
        if row["kind"] == "main" and row["method"] not in (*FIXED, "fine"):
            costs[family, row["solver"], row["method"]].append((float(row["seconds"]), int(row["calls"])))
    text = []
    for (kind, family, solver), methods in found.items():
        budgets = sorted({nfe for cells in methods.values() for nfe in cells if nfe})
        fine = methods.pop("fine", {}).get(0)
        text.append(f"\n**{family}, {solver}** ({kind}" + (f"; 80 steps: {shown(fine)})" if fine else ")") + "\n")
        text.append("| NFE | " + " | ".join(map(str, budgets)) + " |")
        text.append("|---" * (len(budgets) + 1) + "|")
        best = {nfe: min(statistics.mean(cells[nfe]) for cells in methods.values() if nfe in cells) for nfe in budgets}
        for method, cells in methods.items():
            line = [shown(cells[nfe], best[nfe]) if nfe in cells else "" for nfe in budgets]
            text.append(f"| {method} | " + " | ".join(line) + " |")
    text.append(
        "\n**Costs** of a grid: the longest, in seconds on this machine and evaluations of the network by one sample\n"
    )
    text += ["| model | solver | method | seconds | evaluations |", "|---|---|---|---|---|"]
    for (family, solver, method), values in costs.items():
        seconds, calls = max(values)
        text.append(f"| {family} | {solver} | {method} | {seconds:.1f} | {calls} |")
    return "\n".join(text) + "\n"


def shown(values: list[float] | None, best: float | None = None) -> str:
    if not values:
        return ""
    mean, spread = statistics.mean(values), (max(values) - min(values)) / 2
    text = f"{mean:.3g}" + (f" ± {spread:.2g}" if len(values) > 1 else "")
    return f"**{text}**" if mean == best else text


def draw(rows: list[dict[str, str]], families: dict[str, str], path: Path) -> None:
    main = [row for row in rows if row["kind"] == "main" and row["method"] != "fine"]
    names = sorted({families.get(row["problem"], row["problem"]) for row in main})
    solvers = list(dict.fromkeys(row["solver"] for row in main))
    figure = Figure(figsize=(5 * len(names), 4.2 * len(solvers)), layout="constrained")
    panels = figure.subplots(len(solvers), len(names), squeeze=False)
    colours = {method: f"C{k % 10}" for k, method in enumerate(dict.fromkeys(row["method"] for row in main))}
    for x, family in enumerate(names):
        for y, solver in enumerate(solvers):
            curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
            for row in main:
                if families.get(row["problem"], row["problem"]) == family and row["solver"] == solver:
                    curves[row["method"]][int(row["nfe"])].append(float(row["frechet"]))
            for method, points in curves.items():
                nfe = sorted(points)
                means = [statistics.mean(points[n]) for n in nfe]
                style = "--" if method in FIXED else "-"
                panels[y][x].plot(nfe, means, f"o{style}", label=method, color=colours[method], markersize=3)
            panels[y][x].set(
                xscale="log", yscale="log", title=f"{family}, {solver}", xlabel="NFE", ylabel="Fréchet distance"
            )
            panels[y][x].set_xticks(BUDGETS, BUDGETS)
            panels[y][x].xaxis.set_minor_formatter(NullFormatter())
    panels[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def named_path(word: str) -> tuple[str, Path]:
    name, _, path = word.partition("=")
    return name, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=[])
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--n", type=int, default=1000, help="samples for each cell")
    parser.add_argument("--trajectories", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=60, help="of the descent, 32 trajectories each")
    parser.add_argument("--updates", type=int, default=150, help="of art_rl and end_point")
    parser.add_argument("--batch", type=int, default=16, help="trajectories of an update")
    parser.add_argument("--solvers", nargs="+", default=["heun", "euler", "ipndm", "unipc"], choices=list(ODE_SOLVERS))
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *TRAINED], choices=[*METHODS, *TRAINED])
    parser.add_argument("--nfe", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--schedules", type=named_path, nargs="+", default=[], metavar="NAME=PATH")
    parser.add_argument("--no-transfer", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_schedules"))
    options = parser.parse_args()
    bench = Bench(options)
    problems = [of_run(path) for path in options.runs]
    if options.cifar is not None:
        problems.append(of_pictures(options.cifar, options.images))
    for problem in problems:
        bench.run(problem)
    for problem in [] if options.no_transfer else problems:
        others = {other.family: other for other in reversed(problems) if other.family != problem.family}
        bench.transfer(problem, list(others.values()))
    families = {problem.name: problem.family for problem in problems}
    rows = [row for row in bench.rows.values() if row["problem"] in families]
    text = tables(rows, families)
    (options.out / "schedules.md").write_text(text)
    draw(rows, families, options.out / "schedules.png")
    print(text)


if __name__ == "__main__":
    main()
