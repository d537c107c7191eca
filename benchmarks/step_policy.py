"""What do steps buy? Step policies at several prices, beside fixed grids under the same solver.

    python benchmarks/step_policy.py RUN [RUN ...] [--gammas .9 .97 .99] [--updates 300] [--n 1000] [--out FOLDER]

For the model of each RUN (a run folder of images, several seeds of one recipe for instance) and each gamma, the recipe
digits_steps trains a policy in FOLDER/runs; one that is finished is not trained again, one that was interrupted goes on. Then the
policies, and the grids of --methods at --nfe evaluations, draw --n samples from the same noise. Two figures: the Fréchet distance
to the training images in the feature space of the data, and the root mean square distance from where 80 Heun steps end.

Finished cells are rows of FOLDER/cells.csv, and a further call continues with those that are missing. FOLDER/step_policy.md has
the table, mean and half the range over runs, in brackets the best grid at as many evaluations as a policy's mean;
FOLDER/step_policy.png the curves. --set takes words for the recipe, model.learner.scale=0.05 for instance; take another --out with
them.
"""

import argparse
import csv
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from schedules import BUDGETS, Problem, of_run, shown, steps_of
from torch import Tensor

from lightning_diff.artifacts import read_record
from lightning_diff.artifacts.step_policy import load_step_policy
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run
from lightning_diff.samplers import ODE_SOLVERS
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules import GRIDS
from lightning_diff.schedules.adaptive_sampling import sample_with_policy
from lightning_diff.schedules.art import Estimate, estimate
from lightning_diff.schedules.search import METHODS

KEY = ("problem", "model", "solver", "method", "asked", "n")
FIGURES = ("nfe", "steps", "steps_std", "frechet", "distance")
MEASURED = {"frechet": "Fréchet distance", "distance": "distance to the fine solution"}
Row = dict[str, str]
Drawn = tuple[Tensor, Tensor, Tensor]  # samples, and the steps and evaluations of each


class Bench:
    """Cells of one run, each drawn once.

    Args:
        path: of the run.
        options: of the command line.
    """

    def __init__(self, path: Path, options: argparse.Namespace):
        self.path, self.options, self.cells = path, options, options.out / "cells.csv"
        self.model = read_record(path).sha256
        self.problem: Problem = of_run(path)
        self.rows: dict[tuple[str, ...], Row] = {}
        self.fine = cache(self._fine)
        self.estimate = cache(self._estimate)
        if self.cells.is_file():
            with self.cells.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if None not in row.values()]
            self.rows = {tuple(row[name] for name in KEY): row for row in rows}

    def cell(self, method: str, asked: int, draw: Callable[[], Drawn]) -> Row:
        """Figures of what `draw` returns, unless they are there.

        Args:
            asked: NFE of a grid, updates of a policy; 0 for the fine solution.
        """
        problem, n = self.problem, self.options.n
        key = (problem.name, self.model, self.options.solver, method, str(asked), str(n))
        if key not in self.rows:
            samples, steps, calls = draw()
            steps, calls = steps.double(), calls.double()
            distance = (samples - self.fine()).double().square().mean().sqrt()
            figures = (calls.mean(), steps.mean(), steps.std(correction=0), problem.frechet(samples), distance)
            values = (*key, *(f"{float(figure):.6g}" for figure in figures))
            self.cells.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.cells.is_file()
            with self.cells.open("a", newline="") as file:
                csv.writer(file).writerows([KEY + FIGURES] * is_new + [values])
            self.rows[key] = dict(zip(KEY + FIGURES, values, strict=True))
            print(problem.name, *values[2:], flush=True)
        return self.rows[key]

    def on_grid(self, method: str, nfe: int) -> Drawn:
        steps = steps_of(self.options.solver, nfe)
        return self._drawn(self.grid(method, steps), steps, nfe)

    def grid(self, method: str, steps: int) -> Tensor:
        if method in ("art", "art_solver"):
            return self.estimate("euler" if method == "art" else self.options.solver).grid(steps)
        problem, n = self.problem, self.options.trajectories
        noise, labels = problem.noise(n), problem.labels(n)
        return METHODS[method](problem.model, noise, steps, solver=self.options.solver, labels=labels)

    def by_policy(self, gamma: float) -> Drawn:
        problem, n = self.problem, self.options.n
        folder = self.trained(gamma)
        learned = load_step_policy(folder)
        if learned.model != self.model:
            raise SystemExit(f"{folder}: is of another model; take another --out")
        samples, steps = sample_with_policy(
            problem.model, problem.shape, range(n), problem.labels(n), policy=learned.policy, seed=1
        )
        return samples, steps, learned.policy.evaluations(steps)

    def trained(self, gamma: float) -> Path:
        """The folder of the policy's run, which is done or gone on with if it has to be."""
        updates, folder, home = self.options.updates, self.options.out / "runs", json.dumps(str(self.path))
        source = recipe.find("digits_steps")
        noises = updates * recipe.load(source)["data"]["batch_size"]
        words = [
            f"name={self.problem.name}_{self.options.solver}_{gamma:g}_{updates}",
            f"runs_dir={json.dumps(str(folder))}",
            f"model.model={home}",
            f"data.model={home}",
            f"model.learner.gamma={gamma}",
            f"model.learner.solver={self.options.solver}",
            f"model.learning_rate.total={noises}",
            f"model.learning_rate.warmup={noises // 30}",
            f"trainer.max_steps={updates}",
            *self.options.set,
        ]
        settings = recipe.load(source, words)
        run.train(settings, source)
        return Path(settings["runs_dir"]) / settings["name"]

    def _drawn(self, sigmas: Tensor, steps: int, nfe: int, solver: str | None = None) -> Drawn:
        problem, n = self.problem, self.options.n
        asked = {"sigmas": sigmas, "solver": solver or self.options.solver, "seed": 1}
        samples = generate(problem.model, problem.shape, range(n), problem.labels(n), **asked)
        return samples, torch.full((n,), steps), torch.full((n,), nfe)

    def _fine(self) -> Tensor:
        return self._drawn(GRIDS["karras"](80), 80, 159, "heun")[0]

    def _estimate(self, solver: str) -> Estimate:
        problem, n = self.problem, self.options.trajectories
        return estimate(problem.model, problem.noise(n), solver=solver, labels=problem.labels(n))

    def run(self) -> list[Row]:
        options = self.options
        n = options.n
        found = [self.cell("fine", 0, lambda: (self.fine(), torch.full((n,), 80), torch.full((n,), 159)))]
        for gamma in options.gammas:
            found.append(self.cell(f"policy_{gamma:g}", options.updates, lambda g=gamma: self.by_policy(g)))
        for method in options.methods:
            found += [self.cell(method, nfe, lambda m=method, n=nfe: self.on_grid(m, n)) for nfe in options.nfe]
        return found


def best_grid(rows: list[Row], problem: str, nfe: float, figure: str) -> float | None:
    """The least figure of that problem's grids at so many evaluations, between budgets along the straight line of logarithms."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["problem"] == problem and row["method"] in METHODS:
            curves[row["method"]].append((math.log(float(row["nfe"])), math.log(float(row[figure]))))
    here = math.log(nfe)
    values = []
    for points in curves.values():
        x, y = zip(*sorted(points), strict=True)
        if x[0] <= here <= x[-1]:
            values.append(math.exp(np.interp(here, x, y)))
    return min(values, default=None)


def table(rows: list[Row]) -> str:
    """Mean over runs ± half the range, in the order of evaluations."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["method"], row["asked"]].append(row)
    lines = ["| | evaluations | steps | their deviation | " + " | ".join(MEASURED.values()) + " |", "|---" * 6 + "|"]
    for (method, _), cells in sorted(found.items(), key=lambda item: statistics.mean(values(item[1], "nfe"))):
        parts = [shown(values(cells, name)) for name in ("nfe", "steps", "steps_std")]
        for figure in MEASURED:
            part = shown(values(cells, figure)) if method != "fine" or figure == "frechet" else ""
            grids = [best_grid(rows, cell["problem"], float(cell["nfe"]), figure) for cell in cells]
            known = [value for value in grids if value is not None]
            parts.append(part + (f" ({shown(known)})" if known and method.startswith("policy") else ""))
        name = f"**{method}**" if method.startswith("policy") else method
        lines.append(f"| {name} | " + " | ".join(parts) + " |")
    return "\n".join(lines) + "\n"


def values(rows: list[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def draw(rows: list[Row], path: Path) -> None:
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    budgets = sorted({float(row["nfe"]) for row in rows if row["method"] in METHODS})
    for axes, (column, label) in zip(panels, MEASURED.items(), strict=True):
        curves: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            curves[row["method"]][row["asked"]].append(row)
        for k, (method, points) in enumerate(sorted(curves.items())):
            for of_runs in (
                points.values() if method.startswith("policy") else ()
            ):  # each run has its own number of steps
                style = {"marker": "*", "markersize": 11, "linestyle": "", "color": f"C{k % 10}", "label": method}
                axes.plot(values(of_runs, "nfe"), values(of_runs, column), **style)
            if method in METHODS:
                line = sorted([statistics.mean(values(p, name)) for name in ("nfe", column)] for p in points.values())
                axes.plot(*zip(*line, strict=True), "o-", color=f"C{k % 10}", markersize=3, label=method)
            if method == "fine" and column == "frechet":
                axes.axhline(statistics.mean(values(points["0"], column)), color="grey", lw=0.8, label="fine solution")
        axes.set(xscale="log", yscale="log", xlabel="evaluations for each sample, mean", ylabel=label)
        axes.set_xticks(budgets, [f"{nfe:g}" for nfe in budgets])
        axes.minorticks_off()
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.9, 0.97, 0.99])
    parser.add_argument("--updates", type=int, default=300, help="of each policy")
    parser.add_argument("--solver", default="heun", choices=list(ODE_SOLVERS))
    parser.add_argument("--methods", nargs="+", default=["edm", "art", "art_solver"], choices=list(METHODS))
    parser.add_argument("--nfe", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--n", type=int, default=1000, help="samples for each cell")
    parser.add_argument("--trajectories", type=int, default=256, help="that grids are learned from")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="words for the recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_step_policy"))
    options = parser.parse_args()
    rows = [row for path in options.runs for row in Bench(path, options).run()]
    text = table(rows)
    (options.out / "step_policy.md").write_text(text)
    draw(rows, options.out / "step_policy.png")
    print(text)


if __name__ == "__main__":
    main()
