"""Does cheap exploration reach a reward sooner? Five ways to roll out, one code path, over seeds.

    OMP_NUM_THREADS=1 python benchmarks/sol_rl.py runs/digits_edm [MORE RUNS] [--seeds 3] [--epochs 60] [--runs runs/sol_rl]

All arms train recipes/digits_reward.yaml from the same model with the same seeds, optimiser and number of images kept; they
differ in how these images are found:

    k_in_k         K images of each prompt in full precision, all of them kept: plain DiffusionNFT, the baseline
    k_in_n         N in full precision, the best and the worst kept
    few_steps      N previews of few steps in full precision, the kept ones drawn again
    low_precision  the same with previews in low precision (--precision)
    mentor         the same, steered by callbacks.Mentor with the costs measured here

No arm is compiled. The baseline's final reward (the mean of its last three scores) is 100 %, that of the start model 0 %; for each
arm the table has what it took to 25, 50, 75 and 100 % of the way, by linear interpolation between scores, as median over seeds, and
how many times sooner than the baseline it was at 100 %. Rewards rise at first and fall back before they rise again; "held" is what
it took until the mean of three scores was at 100 % to stay. What is counted:

    evaluations  of the network for one image: rollouts, the mentor's measurements, and training (forward 1, backward 2, old
                 policy 1, reference 1), each weighted by what its precision costs on this machine (costs.json, measured first;
                 emulated formats cost more than full precision)
    unweighted   the same with every evaluation as one
    seconds      of the same phases; of no meaning on a machine that does something else beside it

The score itself (RewardReport) is not counted. A dash: not reached. Interrupted runs are resumed; finished ones are not run again.
Writes table.csv and picture.png into --runs. On a GPU: --trainer trainer.accelerator=gpu --precision fp8.
"""

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from matplotlib.figure import Figure

from lightning_diff import load_denoiser
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.callbacks.reward_report import read_curve
from lightning_diff.precision import quantized_copy
from lightning_diff.runs.finished import is_finished

ARMS = ("k_in_k", "k_in_n", "few_steps", "low_precision", "mentor")
SHARES = (0.25, 0.5, 0.75, 1.0)
RECIPE = Path(__file__).parents[1] / "recipes" / "digits_reward.yaml"


def measure_costs(start: str, precisions: list[str], batch: int = 240, rounds: int = 15) -> dict[str, float]:
    """Median over rounds of each precision's time for one evaluation over that of full precision, in a new order each round."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    denoiser = load_denoiser(start).to(device)
    copies = {"full": denoiser} | {kind: quantized_copy(denoiser, kind) for kind in precisions}  # type: ignore[arg-type]
    x = torch.randn(batch, *denoiser.net.shape, device=device)  # type: ignore[misc]
    label = torch.arange(batch, device=device) % 10
    ratios: dict[str, list[float]] = {name: [] for name in copies}
    with torch.no_grad():
        for number in range(rounds + 2):
            seconds = {}
            for name in random.Random(number).sample(sorted(copies), len(copies)):
                begun = time.perf_counter()
                for _ in range(3):
                    copies[name](x, torch.tensor(1.0, device=device), label)
                if device == "cuda":
                    torch.cuda.synchronize()
                seconds[name] = time.perf_counter() - begun
            if number >= 2:
                for name, value in seconds.items():
                    ratios[name].append(value / seconds["full"])
    return {name: round(statistics.median(values), 2) for name, values in ratios.items()}


def overrides(arm: str, options: argparse.Namespace, costs: dict[str, float]) -> list[str]:
    """Of the recipe: this arm's plan and callbacks."""
    few = {"pool": options.pool, "preview_steps": options.preview_steps, "precision": "full"}
    plan = {
        "k_in_k": {"pool": options.keep, "preview_steps": None, "precision": "full"},
        "k_in_n": {"pool": options.pool, "preview_steps": None, "precision": "full"},
        "few_steps": few,
        "low_precision": few | {"precision": options.precision},
        "mentor": few | {"precision": options.precision},
    }[arm]
    plan |= {"prompts": options.prompts, "keep": options.keep, "steps": options.steps}
    mentor: dict[str, object] = {"every": None, "steer": False}
    if arm == "mentor":
        pools = sorted({options.keep, options.pool // 2, options.pool, 2 * options.pool})
        steps = sorted({max(1, options.preview_steps - 2), max(1, options.preview_steps - 1), options.preview_steps})
        mentor = {"every": options.every, "pools": pools, "preview_steps": steps, "costs": costs}
        mentor["precisions"] = [options.precision, "full"]
    example = options.prompts * options.keep * options.levels
    callbacks = [
        {
            "_target_": "lightning_diff.callbacks.EMA",
            "profiles": {"ema": {"_target_": "lightning_diff.ema.HalfLife", "images": 4 * example}},
        },
        {"_target_": "lightning_diff.callbacks.Mentor"} | mentor,
        {"_target_": "lightning_diff.callbacks.RewardReport", "every": options.score_every * example, "n": options.n},
        {"_target_": "lightning_diff.callbacks.Checkpoint", "every_minutes": 2.0, "keep": 1},
    ]
    return [
        *(f"model.plan.{name}={json.dumps(value)}" for name, value in plan.items()),
        f"model.loss.levels={options.levels}",
        f"model.optimizer.lr={options.lr}",
        f"data.batch_size={example}",
        f"callbacks={json.dumps(callbacks)}",
        f"trainer.max_steps={options.epochs}",
        *([f"model.reward={options.reward}"] if options.reward else []),
        *options.trainer,
    ]


def train(arm: str, seed: int, options: argparse.Namespace, costs: dict[str, float]) -> None:
    start = Path(options.start[seed % len(options.start)]).resolve()
    name = f"{arm}_{seed}"
    if is_finished(options.runs / name, options.epochs):
        return
    command = [sys.executable, "-m", "lightning_diff", "train", str(RECIPE), f"name={name}", f"seed={seed}"]
    command += [f"runs_dir={options.runs}", f"model.model={start}", *overrides(arm, options, costs)]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    print(f"{name}: trained", flush=True)


def reached(reward: list[float], spent: list[float], goal: float) -> float | None:
    """What had been spent when the reward first came to the goal."""
    if reward[0] >= goal:
        return spent[0]
    for i in range(1, len(reward)):
        if reward[i] >= goal:
            share = (goal - reward[i - 1]) / (reward[i] - reward[i - 1])
            return spent[i - 1] + share * (spent[i] - spent[i - 1])
    return None


def held(reward: list[float], spent: list[float], goal: float) -> float | None:
    """What had been spent when the mean of three scores came to the goal to stay."""
    means = [statistics.mean(reward[i - 2 : i + 1]) for i in range(2, len(reward))]
    below = [i for i, mean in enumerate(means) if mean < goal - 1e-12]
    first = below[-1] + 1 if below else 0
    return spent[first + 2] if first < len(means) else None


def results(options: argparse.Namespace, costs: dict[str, float]) -> list[dict[str, object]]:
    """A row for each arm and seed."""
    rows: list[dict[str, object]] = []
    for seed in range(options.seeds):
        curves = {}
        for arm in options.arms:
            table = options.runs / f"{arm}_{seed}" / "metrics.csv"
            weighted, plain = read_curve(table, costs), read_curve(table)
            curves[arm] = weighted | {"unweighted": plain["evaluations"]}
        base = curves["k_in_k"]["reward"]
        final = statistics.mean(base[-3:])
        if final <= base[0]:
            raise SystemExit(
                f"seed {seed}: the baseline's reward did not rise: no way to go a share of; more epochs or another --lr"
            )
        for arm, curve in curves.items():
            row: dict[str, object] = {"arm": arm, "seed": seed, "start": base[0], "baseline_final": final}
            row["final"] = statistics.mean(curve["reward"][-3:])
            last = {r["metric"]: float(r["value"]) for r in read(options.runs / f"{arm}_{seed}" / "metrics.csv")}
            row |= {"kl": last.get("train/kl"), "diversity": last["rollout/diversity"]}
            for unit in ("evaluations", "unweighted", "seconds"):
                for share in SHARES:
                    goal = base[0] + share * (final - base[0])
                    row[f"{unit}_{share:.0%}"] = reached(curve["reward"], curve[unit], goal)
                row[f"{unit}_held"] = held(curve["reward"], curve[unit], final)
            rows.append(row)
    return rows


def show(rows: list[dict[str, object]]) -> None:
    """Medians over seeds, and how many times sooner than the baseline, seed by seed."""
    by = {(row["arm"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})  # type: ignore[type-var]
    arms = list(dict.fromkeys(str(row["arm"]) for row in rows))
    for unit, scale in (("evaluations", 1000), ("unweighted", 1000), ("seconds", 1)):
        stages = [*(f"{share:.0%}" for share in SHARES), "held"]
        heads = "".join(f"{stage:>10}" for stage in stages)
        what = f"{unit} (thousands)" if scale > 1 else unit
        ratios = f"{'sooner':>10}{'each seed':>18}{'held sooner':>13}{'each seed':>18}"
        print(f"\n{what:24}{heads}{ratios}{'final':>10}{'KL':>9}{'diversity':>11}")
        for arm in arms:
            cells = []
            for stage in stages:
                values = [by[arm, seed][f"{unit}_{stage}"] for seed in seeds]
                found = [value / scale for value in values if value is not None]  # type: ignore[operator]
                cells.append(f"{statistics.median(found):>10.1f}" if len(found) == len(values) else f"{'-':>10}")
            sooner = []
            for key, width in ((f"{unit}_100%", 10), (f"{unit}_held", 13)):
                times = [
                    by["k_in_k", seed][key] / by[arm, seed][key]  # type: ignore[operator]
                    for seed in seeds
                    if by[arm, seed][key] and by["k_in_k", seed][key]
                ]
                sooner.append(f"{f'{statistics.median(times):.2f}' if times else '-':>{width}}")
                sooner.append(f"{' '.join(f'{time:.2f}' for time in times):>18}")
            ends = [
                statistics.mean(float(by[arm, s][name] or 0) for s in seeds) for name in ("final", "kl", "diversity")
            ]  # type: ignore[arg-type]
            print(f"{arm:24}{''.join(cells)}{''.join(sooner)}{ends[0]:>10.4f}{ends[1]:>9.4f}{ends[2]:>11.3f}")


def draw(options: argparse.Namespace, costs: dict[str, float]) -> None:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2), ("evaluations", "seconds"), strict=True):
        for number, arm in enumerate(options.arms):
            for seed in range(options.seeds):
                curve = read_curve(options.runs / f"{arm}_{seed}" / "metrics.csv", costs)
                label = arm.replace("_", " ") if seed == 0 else None
                axes.plot(curve[unit], curve["reward"], color=f"C{number}", lw=1.2, alpha=0.8, label=label)
        axes.set(xlabel=f"{unit}{', weighted by cost' if unit == 'evaluations' else ''}", ylabel="mean reward")
        axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(options.runs / "picture.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "start", nargs="+", help="run folders of trained class-conditional models, one for each seed in turn"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="k_in_k among them")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/sol_rl"))
    parser.add_argument("--precision", default="int8", help="of low-precision previews")
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--keep", type=int, default=12, help="K")
    parser.add_argument("--pool", type=int, default=48, help="N")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--preview-steps", type=int, default=4)
    parser.add_argument("--levels", type=int, default=4, help="noise levels trained for each image")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--every", type=int, default=15, help="epochs between the mentor's measurements")
    parser.add_argument("--score-every", type=int, default=3, help="epochs between scores")
    parser.add_argument("--n", type=int, default=400, help="images of a score")
    parser.add_argument("--reward", help="node of another reward, in YAML")
    parser.add_argument("--trainer", nargs="*", default=["trainer.accelerator=cpu"], help="further overrides")
    options = parser.parse_args()
    options.runs = options.runs.resolve()
    options.runs.mkdir(parents=True, exist_ok=True)
    kept = options.runs / "costs.json"
    if not kept.exists():  # once: the mentor decides by them, and a run is resumed with the recipe that it began with
        kept.write_text(json.dumps(measure_costs(options.start[0], [options.precision])))
    costs = json.loads(kept.read_text())
    print("an evaluation costs, relative to full precision:", costs, flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        tasks = [pool.submit(train, arm, seed, options, costs) for seed in range(options.seeds) for arm in options.arms]
        for task in tasks:
            task.result()
    rows = results(options, costs)
    with (options.runs / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    show(rows)
    draw(options, costs)


if __name__ == "__main__":
    main()
