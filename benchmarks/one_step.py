"""One step as good as the teacher? The digits over arms, teachers and seeds: sCD, and what is added to it.

    python benchmarks/one_step.py [--arms scd dmd sid] [--seeds 3] [--teachers 3] [--steps 4000] [--jobs 2] [--runs runs/one_step]
    python benchmarks/one_step.py --arm wide model.noise.std=1.8 --arm late model.critic.start=0.75 --arms scd dmd
    python benchmarks/one_step.py --costs

An arm is a packaged recipe with overrides; `--arm NAME OVERRIDE ...` adds one of digits_scd, or of digits_one_step where an
override names model.critic. Each teacher is recipes/digits_edm.yaml with a seed of its own, and each seed trains every arm;
finished runs are not trained again, interrupted ones go on. Two arms start from other models than the teacher. "reward" trains
"dmd" on towards a reward, as recipes/digits_reward.yaml does with the teacher, which is measured beside it. "start" is "dmd" after
"paths", a short regression onto the teacher's paths in place of as many of sCM's steps as take its process time.

Prints Fréchet distances in the classifier's features, mean and standard deviation over seeds, and their ratios to the teachers', of
500 samples (mean over eight draws) and of 4,000 (four); recall of 500; and of 4,000 the agreement with the digit that was
conditioned on, and the shares of the rarest and the most frequent digit, as the classifier takes them, over a tenth: a mode that is
dropped shows there; the reward of recipes/digits_reward.yaml, of 1,000; and the process time of all that trained a student after
its teacher, whose own stands in its row. Each student takes one step, and two, whose second level is the one of the least distance
of 2,000 samples of another seed, and 0.8. Four arms have lengths of their own: "regression",
"paths", "start" and "reward".

Writes table.csv, and what was measured of each run beside it, which is not measured again. `--costs` prints the process time of
each arm's step over that of a diffusion step, critic from the start.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback

from lightning_diff import load_denoiser
from lightning_diff.data import Digits
from lightning_diff.metrics import ClassLogits, Reference
from lightning_diff.metrics.evaluate_denoiser import evaluate_denoiser
from lightning_diff.metrics.search_levels import search_levels
from lightning_diff.rewards import ClassLogProbability
from lightning_diff.samplers.generate import generate
from lightning_diff.schedules.sampling import Sampling, choose

DRAWS, LARGE, LARGE_DRAWS, REWARDED = 8, 4000, 4, 1000
SECOND = 0.8  # level of a second step, where the digits keep the teacher's recall (benchmarks/second_level.py)
BOUNDS = ["model.bounds=[-1, 1]"]
SHORT = [  # digits_one_step's batch, warm-up, rate and average
    "data.batch_size=64",
    "model.warmup=0.1",
    "model.optimizer.lr=4e-4",
    "callbacks.0.profiles.ema.images=10000",
]
LARGEST = [
    "model.noise={_target_: lightning_diff.noise.WithLargest, share: 0.25, sigma: 80.0, "
    "law: {_target_: lightning_diff.noise.LogNormal, mean: -0.6, std: 1.6}}",
    "model.weighting={_target_: lightning_diff.weighting.Uniform}",
]


@dataclass(frozen=True)
class Arm:
    """A recipe with overrides, and the arm whose model it starts from; the teacher where none is named."""

    recipe: str
    words: Sequence[str] = ()
    after: str = ""


ARMS = {
    "scd": Arm("digits_scd", SHORT),
    "bounds": Arm("digits_scd", [*SHORT, *BOUNDS]),
    "largest": Arm("digits_scd", [*SHORT, *BOUNDS, *LARGEST]),
    "dmd": Arm("digits_one_step"),
    "one step": Arm("digits_one_step", ["model.critic.levels=[]"]),
    "sid": Arm("digits_one_step", ["model.critic.loss=sid"]),
    "regression": Arm("digits_regression", ["trainer.max_steps=5000"]),
    "paths": Arm("digits_regression", ["trainer.max_steps=1000"]),
    "start": Arm("digits_one_step", ["model.warmup=0", "model.critic.start=0.25", "trainer.max_steps=3200"], "paths"),
    "reward": Arm("digits_one_step_reward", ["trainer.max_steps=1000"], "dmd"),
}
COLUMNS = ("few", "many", "recall", "agreement", "smallest", "largest", "reward", "seconds")
COST_STEPS, TIMED = 68, 48  # the last ones, three times as many as a path has nodes


class Clock(Callback):
    """Keeps the process's time at the end of each step, in `clock.json` in the run folder."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.times.append(time.process_time())

    def on_train_end(self, trainer, pl_module):
        Path(trainer.default_root_dir, "clock.json").write_text(json.dumps(self.times))


def train(recipe: str, name: str, runs: Path, words: Sequence[str]) -> Path:
    """A run on one thread, in a process of its own; nothing if it is there."""
    if not (runs / name / "model.json").exists():
        words = [f"name={name}", f"runs_dir={runs}", "trainer.accelerator=cpu", *words]
        python(runs / name, "-m", "lightning_diff", "train", recipe, *words)
    return runs / name


def python(result: Path, *words: str) -> None:
    """On one thread, in a process of its own. Beside the result stand what it printed, and its process time, summed over calls."""
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": here}
    with result.with_name(f"{result.name}.log").open("a") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=subprocess.STDOUT, env=environment)
        _, status, used = os.wait4(process.pid, 0)
    clock = seconds_of(result)
    before = seconds(result) if clock.exists() else 0.0
    clock.write_text(str(before + used.ru_utime + used.ru_stime))
    if status:
        raise SystemExit(f"{result}: failed, see {log.name}")


def seconds_of(result: Path) -> Path:
    return result.with_name(f"{result.name}.seconds")


def seconds(result: Path) -> float:
    """Process time of all calls that made it; NaN where that was not kept."""
    return float(clock.read_text()) if (clock := seconds_of(result)).exists() else math.nan


def teacher_of(options: argparse.Namespace, seed: int) -> Path:
    """Trained if it is not there; several seeds of students may share one."""
    number = seed % (options.teachers or options.seeds)
    return train("digits_edm", f"teacher_{number}", options.runs, [f"seed={number}", *options.teacher])


def rewarded_teacher(options: argparse.Namespace, seed: int) -> Path:
    """The teacher trained on towards the same reward as "reward" is."""
    teacher = teacher_of(options, seed)
    number = teacher.name.removeprefix("teacher_")
    return train(
        "digits_reward", f"{teacher.name}_rewarded", options.runs, [f"model.model={teacher}", f"seed={number}"]
    )


def train_seed(options: argparse.Namespace, arms: dict[str, Arm], seed: int) -> None:
    for name, arm in arms.items():
        train_arm(options, name, arm, seed)
    if "reward" in arms:
        rewarded_teacher(options, seed)


def train_arm(options: argparse.Namespace, name: str, arm: Arm, seed: int) -> float:
    """Trains it, and before it what it starts from. Returns the process time of both."""
    teacher, before, words = teacher_of(options, seed), 0.0, list(arm.words)
    if arm.after:
        before = train_arm(options, arm.after, ARMS[arm.after], seed)
        words = [f"model.start={options.runs / f'{arm.after}_{seed}'}", *words]
    own = [f"seed={seed}", f"model.teacher={teacher}", f"trainer.max_steps={options.steps}"]
    return before + seconds(train(arm.recipe, f"{name}_{seed}", options.runs, [*own, *words]))


def measured(path: Path, sampling: Sampling, reference: Reference, spent: float) -> dict[str, float]:
    """The columns of one model's samples."""
    model = load_denoiser(path)

    def figures(n: int | None, seed: int, per_class: bool = False) -> dict[str, float]:
        rows = evaluate_denoiser(model, reference, n, sampling=sampling, seed=seed, per_class=per_class)
        return {row.metric: row.value for row in rows}

    draws = [figures(None, seed) for seed in range(DRAWS)]
    large = [figures(LARGE, seed, per_class=True) for seed in range(LARGE_DRAWS)]
    many = {name: statistics.mean(draw[name] for draw in large) for name in large[0]}
    shares = [value for name, value in many.items() if name.startswith("class_share/")]
    labels = torch.arange(REWARDED) % 10
    images = generate(
        model, reference.data.shape, range(REWARDED), labels, sigmas=sampling.sigmas, solver=sampling.solver
    )
    reward = ClassLogProbability(ClassLogits(reference.data))(images.clamp(-1, 1), labels)
    own = (
        statistics.mean(draw["frechet_classifier"] for draw in draws),
        many["frechet_classifier"],
        statistics.mean(draw["recall_classifier"] for draw in draws),
        many["label_agreement"],
        10 * min(shares),
        10 * max(shares),
        float(reward.mean()),
        spent,
    )
    return dict(zip(COLUMNS, own, strict=True))


def measure_seed(options: argparse.Namespace, arms: dict[str, Arm], seed: int, reference: Reference) -> dict[str, dict]:
    teacher = teacher_of(options, seed)
    own = partial(measured, teacher, choose(load_denoiser(teacher)), reference, seconds(teacher))
    found = {"teacher": kept(teacher, "own", own)}
    if "reward" in arms:
        path = rewarded_teacher(options, seed)
        own = partial(measured, path, choose(load_denoiser(path)), reference, seconds(path))
        found["teacher, rewarded"] = kept(path, "own", own)
    for name, arm in arms.items():
        path, spent = options.runs / f"{name}_{seed}", train_arm(options, name, arm, seed)
        model = load_denoiser(path)

        def one_step(path=path, model=model, spent=spent) -> dict[str, float]:
            return measured(path, choose(model, steps=1), reference, spent)

        def two_steps(second, path=path, model=model, spent=spent) -> dict[str, float]:
            levels = [second or search_levels(model, reference, 2000, seed=99)[0]]
            return measured(path, choose(model, levels=levels), reference, spent) | {"level": levels[0]}

        found[f"{name}, 1 step"] = kept(path, "1", one_step)
        found[f"{name}, 2 steps"] = kept(path, "2", partial(two_steps, None))
        found[f"{name}, 2 steps, {SECOND:g}"] = kept(path, f"2_{SECOND:g}", partial(two_steps, SECOND))
    return found


def kept(run: Path, how: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """From a file beside the run, which is written where there is none."""
    file = run.with_name(f"{run.name}.{how}.json")
    if not file.exists():
        file.write_text(json.dumps(measure()))
    return json.loads(file.read_text())


def report(seeds: list[dict[str, dict[str, float]]]) -> None:
    print(
        f"| | 500 samples | / teacher | {LARGE:,} samples | / teacher | recall | agreement | classes | reward | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for title in seeds[0]:
        of = {name: [each[title][name] for each in seeds] for name in COLUMNS}
        ratios = {name: [each[title][name] / each["teacher"][name] for each in seeds] for name in ("few", "many")}
        cells = [of["few"], ratios["few"], of["many"], ratios["many"], of["recall"], of["agreement"]]
        classes = f"{min(of['smallest']):.2f} to {max(of['largest']):.2f}"
        last = f"{spread(of['reward'])} | {statistics.mean(of['seconds']):.0f}"
        print(f"| {title} | {' | '.join(map(spread, cells))} | {classes} | {last} |")


def spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def costs(options: argparse.Namespace, arms: dict[str, Arm]) -> None:
    """Process time of a step of each arm, over that of its teacher's."""
    runs = options.runs / "costs"
    runs.mkdir(parents=True, exist_ok=True)
    short = [f"trainer.max_steps={COST_STEPS}", "data.batch_size=64", "callbacks=[{_target_: one_step.Clock}]"]

    def of_step(folder: Path) -> float:
        times = json.loads((folder / "clock.json").read_text())
        return (times[-1] - times[-1 - TIMED]) / TIMED

    teacher = train("digits_edm", "teacher", runs, short)
    unit = of_step(teacher)
    print(f"a diffusion step: {1000 * unit:.0f} ms\n| | step / diffusion step |\n|---|---|")
    for name, arm in arms.items():
        start = ["model.start=null", "model.critic.start=0"] if "one_step" in arm.recipe else []
        folder = train(arm.recipe, name, runs, [f"model.teacher={teacher}", *arm.words, *short, *start])
        print(f"| {name} | {of_step(folder) / unit:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--arm", nargs="+", action="append", default=[], metavar=("NAME", "OVERRIDE"))
    parser.add_argument("--teacher", nargs="+", default=[], metavar="OVERRIDE", help="of digits_edm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teachers", type=int, help="seed s has teacher s modulo this; default one for each seed")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/one_step"))
    parser.add_argument("--costs", action="store_true")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    arms = {name: ARMS[name] for name in options.arms}
    for name, *words in options.arm:
        has_critic = any(word.startswith("model.critic") for word in words)
        arms[name] = Arm("digits_one_step" if has_critic else "digits_scd", words)
    if options.costs:
        costs(options, arms)
        return
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda seed: teacher_of(options, seed), range(options.teachers or options.seeds)))
        list(pool.map(lambda seed: train_seed(options, arms, seed), range(options.seeds)))
    data = Digits(batch_size=128)
    data.setup()
    reference = Reference(data)
    seeds = [measure_seed(options, arms, seed, reference) for seed in range(options.seeds)]
    with (options.runs / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "seed", *COLUMNS, "level"])
        writer.writerows(
            [title, seed, *(row[name] for name in COLUMNS), row.get("level", "")]
            for seed, found in enumerate(seeds)
            for title, row in found.items()
        )
    report(seeds)


if __name__ == "__main__":
    main()
