"""Kill trainings at random moments, resume them with the same command, and compare with a run that nobody killed.

    python benchmarks/faults.py [--kills 20] [--runs 5] [--seed 0] [--jobs 1] [--keep FOLDER]
    python benchmarks/faults.py --steps 24 --at "step 9" "saving 20" ending
    python benchmarks/faults.py --steps 12 --operations

For each variant of one small training (EDM's, one that distils a consistency model, one that learns a schedule, one for a reward):
one uninterrupted run, then `--runs` runs that share `--kills` SIGKILLs. The moment of each is uniform over the time that the run
has still to go, start and end included. `--at` kills one run at these places instead ("exploring 3" and "regenerating 5" are places
of a training for a reward), `--operations` a run before each operation on files in turn: opening one to write, renaming, deleting,
making a folder.

Then the two folders must be the same: the same files with equal bytes. Checkpoints and EMA snapshots are compared by content, down
to the last bit of every tensor, since their writers put keys in no fixed order, and metrics.csv without its rows of speed. Prints a
line for each run, and how many of the kills lie in a run that came out the same. About four minutes on one core.

Each attempt is a fork of this process, in which everything is imported: starting Python anew would add seconds in which nothing of
the run happens. Exit code 1 if anything differs.
"""

import argparse
import importlib
import json
import mmap
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from safetensors import safe_open

import lightning_diff.runs.train  # noqa: F401  (imported once for all attempts)
from lightning_diff.artifacts import save_denoiser
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.cli import app as cli
from lightning_diff.denoiser import Denoiser
from lightning_diff.modules import reward_epoch
from lightning_diff.nets import UNet

RECIPE = """
name: faults
model:
  _target_: lightning_diff.DiffusionModule
  net: {{_target_: lightning_diff.nets.UNet, channels: 16, channel_mult: [1], num_blocks: 1, attention: [], dropout: 0.1}}
  optimizer: {{_target_: torch.optim.Adam, _partial_: true, lr: 2.0e-3}}
  label_dropout: 0.1
data: {{_target_: lightning_diff.data.Digits, batch_size: 32}}
callbacks:
  - {{_target_: faults.Witness}}
  - _target_: lightning_diff.callbacks.EMA
    profiles:
      ema: {{_target_: lightning_diff.ema.HalfLife, images: 1000}}
      wide: {{_target_: lightning_diff.ema.PowerFunction, sigma_rel: 0.1}}
    snapshot_every: {snapshot}
  - {{_target_: lightning_diff.callbacks.NoiseLevels, gradient_every: {gradient}}}
  - {{_target_: lightning_diff.callbacks.SampleGrid, every: {draw}, rows: 2, columns: 4, steps: 4}}
  - {{_target_: lightning_diff.callbacks.Evaluate, every: {evaluate}, n: 128, feature: pixels, steps: 4}}
  - {{_target_: lightning_diff.callbacks.Checkpoint, every_images: {save}, every_minutes: null, keep: 2}}
trainer: {{accelerator: cpu, max_steps: {steps}, gradient_clip_val: 1.0, log_every_n_steps: 7}}
"""
VARIANTS = {
    "MeasuredVariance": ["model.weighting={_target_: lightning_diff.weighting.MeasuredVariance, gamma: 0.5}"],
    "AdaptiveNoise": [
        "model.noise={_target_: lightning_diff.noise.AdaptiveNoise, base: {_target_: lightning_diff.noise.LogNormal}, "
        "warmup: 1000, refresh: 20}"
    ],
    "ConsistencyModule": [
        "model={_target_: lightning_diff.ConsistencyModule, teacher: ../teacher, warmup: 4000, net: {dropout: 0.1}}"
    ],
    "ScheduleModule": [
        "model={_target_: lightning_diff.ScheduleModule, model: ../teacher}",
        "model.learner={_target_: lightning_diff.schedules.StickBreaking, steps: 4, width: 32}",
        "model.learner.environment={_target_: lightning_diff.schedules.environments.EndPoint, solver: euler, substeps: 3}",
        "data={_target_: lightning_diff.data.Noise, model: ../teacher, batch_size: 32}",
        "callbacks=[{_target_: faults.Witness}, {_target_: lightning_diff.callbacks.learned_grid.LearnedGrid, every: 320}, "
        "{_target_: lightning_diff.callbacks.Checkpoint, every_images: 96, every_minutes: null, keep: 2}]",
    ],
    "AlignmentModule": [
        "model={_target_: lightning_diff.AlignmentModule, model: ../teacher, reward: {_target_: lightning_diff.rewards.Ink}}",
        "model.loss={_target_: lightning_diff.rollouts.RewardLoss, levels: 2}",
        "model.plan={_target_: lightning_diff.rollouts.Plan, prompts: 4, pool: 12, keep: 8, steps: 4, preview_steps: 2}",
        "model.plan.precision=bf16",
        "callbacks=[{_target_: faults.Witness}, "
        "{_target_: lightning_diff.callbacks.EMA, profiles: {ema: {_target_: lightning_diff.ema.HalfLife, images: 1000}}}, "
        "{_target_: lightning_diff.callbacks.Mentor, every: 3, groups: 2, pools: [8, 12], preview_steps: [1, 2], "
        "threshold: -1, costs: {bf16: 0.1}}, "
        "{_target_: lightning_diff.callbacks.Checkpoint, every_images: 96, every_minutes: null, keep: 2}]",
    ],  # an epoch is 64 examples, 2 steps: checkpoints are in the middle of epochs, too
}
BOTH = "both"  # at once, for a short test
DEFAULT = list(VARIANTS)
VARIANTS[BOTH] = VARIANTS["MeasuredVariance"] + VARIANTS["AdaptiveNoise"]
SPEED = ("images_per_second", "seconds/")  # metrics that no two runs share
Mark = str | int  # a phase with or without its step, or the number of an operation on files
PHASES = ("starting", "step", "saving", "ending", "exploring", "regenerating", "measuring")
NUMBERED = ("step", "saving", "exploring", "regenerating", "measuring")


class Board:
    """Memory that outlives a killed process: where it was, and when it got there. A process may be told where to kill itself."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 32)
        self.clear()

    def clear(self) -> None:
        self._memory[:] = struct.pack("qqdd", 0, 0, 0.0, 0.0)
        self.kill_at: Mark | None = None
        self._operations = 0

    def write(self, phase: str, step: int) -> None:
        old, _, started, ending = struct.unpack("qqdd", self._memory)
        if phase == "step" and not started:
            started = time.monotonic()
        if phase == "ending" and PHASES[old] != "ending":
            ending = time.monotonic()
        self._memory[:] = struct.pack("qqdd", PHASES.index(phase), step, started, ending)
        if self.kill_at in (phase, f"{phase} {step}"):
            os.kill(os.getpid(), signal.SIGKILL)

    def count_operations(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: sees each operation on files before it is done."""
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            is_change = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and not str(arguments[0]).startswith(
                "/dev"
            )
        else:
            is_change = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
        if is_change:
            self._operations += 1
            if self.kill_at == self._operations:
                os.kill(os.getpid(), signal.SIGKILL)

    def read(self) -> tuple[str, int, float, float]:
        """Phase, step, and the moments at which steps and ending began, 0 for not yet."""
        phase, step, started, ending = struct.unpack("qqdd", self._memory)
        return PHASES[phase], step, started, ending

    @property
    def place(self) -> str:
        phase, step, *_ = self.read()
        return f"{phase} {step}" if phase in NUMBERED else phase


BOARD = Board()


class Witness(Callback):
    """Notes on the board what the run is at; changes nothing."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        BOARD.write("step", trainer.global_step + 1)

    def on_save_checkpoint(self, trainer: Any, *_: Any) -> None:
        BOARD.write("saving", trainer.global_step)

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        """Of models that draw what they train on: when it is drawn and about to be scored."""
        for module in (importlib.import_module("lightning_diff.rollouts.rollout"), reward_epoch):
            module.draw = witnessed(module.draw, trainer)

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        BOARD.write("ending", trainer.global_step)


def witnessed(draw: Callable[..., Any], trainer: Any) -> Callable[..., Any]:
    """`rollouts.rollout.draw`, noting its phases on the board."""
    names = {"explore": "exploring", "regenerate": "regenerating", "full": "regenerating", "measure": "measuring"}

    def noting(denoiser: Any, *, reward: Any, phase: str, **options: Any) -> Any:
        def noted(images: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            BOARD.write(names[phase], trainer.global_step + 1)
            return reward(images, label)

        return draw(denoiser, reward=noted, phase=phase, **options)

    return noting


def attempt(folder: Path, variant: str, kill: float | Mark | None = None) -> bool:
    """Run the command until it ends or is killed: after so many seconds, or at a mark. Returns whether it ended.

    Raises:
        RuntimeError: it failed.
    """
    BOARD.clear()
    child = os.fork()
    if not child:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            if not isinstance(kill, float):
                BOARD.kill_at = kill
                sys.addaudithook(BOARD.count_operations)
            code = cli.main(["train", "faults.yaml", *VARIANTS[variant]])
        except Exception:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    until = time.monotonic() + kill if isinstance(kill, float) else float("inf")
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done and os.WIFSIGNALED(status):
            return False
        if done and status:
            raise RuntimeError(f"{folder}: the run failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
        if done:
            return True
        if time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.0005)


def new_folder(root: Path, name: str, steps: int) -> Path:
    """With the recipe in it, its cadences in proportion to the number of steps."""
    folder = root / name
    folder.mkdir(parents=True)
    images = {
        "save": steps // 16,
        "snapshot": steps // 5,
        "draw": steps // 3,
        "evaluate": steps // 2,
        "gradient": steps // 12,
    }
    values = {name: 32 * max(1, every) for name, every in images.items()}
    (folder / "faults.yaml").write_text(RECIPE.format(steps=steps, **values))
    return folder


def save_teacher(folder: Path) -> None:
    """A denoiser for consistency models to start from and to follow."""
    net = {"channels": 16, "channel_mult": [1], "num_blocks": 1, "attention": []}
    facts = {"shape": [1, 8, 8], "num_classes": 10}
    torch.manual_seed(0)
    node = {"_target_": "lightning_diff.nets.UNet", **net, **facts}
    save_denoiser(folder, Denoiser(UNet(**net, **facts), 0.75), node, **facts)


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """Leaves by their path; an empty container is a leaf."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    leaves = {path: leaf for key, part in items for path, leaf in flat(part, f"{name}.{key}").items()}
    return leaves or {name: state}


def content(path: Path) -> Any:
    """What a file holds, where its bytes may differ without meaning."""
    if path.suffix == ".ckpt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
            return {"metadata": file.metadata(), "tensors": {name: file.get_tensor(name) for name in names}}
    if path.name == "metrics.csv":
        return [row for row in read(path) if not row["metric"].startswith(SPEED)]
    if path.match("checkpoints/*.json"):
        return {name: value for name, value in json.loads(path.read_text()).items() if name not in ("bytes", "sha256")}
    return path.read_bytes()


def first_difference(a: Path, b: Path) -> str | None:
    """Where in two files something differs."""
    one, other = flat(content(a)), flat(content(b))
    for name in one | other:
        x, y = one.get(name), other.get(name)
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            is_same = x.dtype == y.dtype and x.shape == y.shape and x.numpy().tobytes() == y.numpy().tobytes()
        else:
            is_same = type(x) is type(y) and (x == y or (x != x and y != y))
        if not is_same:
            return f"{a.name}{name}: {str(x)[:60]!r} and {str(y)[:60]!r}"
    return None


def differences(whole: Path, parts: Path) -> list[str]:
    """What two run folders do not share, in words."""
    a, b = (
        {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        for folder in (whole, parts)
    )
    found = [f"{name}: only in one" for name in sorted(a.keys() ^ b.keys())]
    return found + [where for name in sorted(a.keys() & b.keys()) if (where := first_difference(a[name], b[name]))]


def random_kill(folder: Path, steps: int, times: Sequence[float], draws: torch.Generator) -> float:
    """Seconds: uniform over the time that the run has still to go from its newest checkpoint."""
    start_up, training, ending = times
    saved = max((int(path.stem[5:]) for path in folder.glob("runs/faults/checkpoints/step_*.ckpt")), default=0)
    left = start_up + training * (1 - saved / steps) + ending
    return left * float(torch.rand((), generator=draws, dtype=torch.float64))


def tormented(
    root: Path, variant: str, number: int, steps: int, kills: Sequence[Mark | None], times: Sequence[float], seed: int
) -> dict[str, Any]:
    """One run with these kills, None for random ones, or several if it ends before; where they hit it, and what then differs."""
    draws = torch.Generator().manual_seed(seed)
    left, where, found = list(kills), [], []
    for again in range(100):
        folder = new_folder(root, f"{variant}_{number}{f'_{again}' if again else ''}", steps)
        is_done = False
        while not is_done:
            kill: float | Mark | None = left[0] if left else None
            if left and kill is None:
                kill = random_kill(folder, steps, times, draws)
            is_done = attempt(folder, variant, kill)
            if not is_done:
                where.append(BOARD.place)
                left.pop(0)
            elif left and left[0] is not None:
                return {"where": where, "found": found, "missed": left}
        found += [f"{folder.name}: {part}" for part in differences(root / variant / "runs", folder / "runs")]
        shutil.rmtree(folder)
        if not left:
            break
    return {"where": where, "found": found, "missed": left}


def plan(options: argparse.Namespace) -> Iterator[tuple[str, int, list[Mark | None]]]:
    """Variant, number and kills of each run."""
    for variant in options.variants:
        if options.at:
            yield variant, 0, options.at
        elif options.operations:
            yield from ((variant, number, [number]) for number in range(options.operations, 10_000))
        else:
            for number in range(options.runs):
                yield (
                    variant,
                    number,
                    [None] * (options.kills // options.runs + (number < options.kills % options.runs)),
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each variant")
    parser.add_argument("--runs", type=int, default=5, help="that share them")
    parser.add_argument(
        "--at", nargs="+", help="one run of each variant, killed at these places: 'step 9', 'saving 20', ending"
    )
    parser.add_argument(
        "--operations",
        nargs="?",
        type=int,
        const=1,
        help="a run for each operation on files from this one on, killed before it",
    )
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=DEFAULT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--keep", type=Path, help="a new folder for the uninterrupted runs; default a temporary one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.modules["faults"] = sys.modules[__name__]  # where the recipe finds the witness
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        save_teacher(root / "teacher")
        times = {}
        for variant in options.variants:
            begun = time.monotonic()
            attempt(new_folder(root, variant, options.steps), variant)
            _, step, started, ending = BOARD.read()
            assert step == options.steps, step
            times[variant] = (started - begun, ending - started, time.monotonic() - ending)
            print(
                f"{variant}: " + "starts {:.1f} s, trains {:.1f} s, ends {:.1f} s".format(*times[variant]), flush=True
            )

        print(f"\n{'run':24} {'result':10} killed at")
        tasks = plan(options)
        same, total = 0, 0
        running: dict[int, tuple[str, int]] = {}
        exhausted: set[str] = set()  # variants without operations left to be killed at
        while True:
            task = next(tasks, None) if len(running) < options.jobs else None
            if task is not None:
                variant, number, kills = task
                if variant in exhausted:
                    continue
                child = os.fork()
                if not child:
                    seed = 1000 * options.seed + 100 * list(VARIANTS).index(variant) + number
                    result: dict[str, Any] = {"where": [], "found": ["the benchmark failed"], "missed": []}
                    try:
                        BOARD.__init__()  # type: ignore[misc]  # its own
                        result = tormented(root, variant, number, options.steps, kills, times[variant], seed)
                    except RuntimeError as error:
                        result["found"] = [str(error)]
                    finally:
                        (root / f"{variant}_{number}.json").write_text(json.dumps(result))
                        os._exit(0)
                running[child] = (variant, number)
                continue
            if not running:
                break
            child, _ = os.wait()
            variant, number = running.pop(child)
            result = json.loads((root / f"{variant}_{number}.json").read_text())
            if result["missed"]:
                exhausted.add(variant)
                if options.operations:
                    continue
                result["found"].append(f"was never at {', '.join(result['missed'])}")
            total += max(1, len(result["where"]))
            same += 0 if result["found"] else len(result["where"])
            verdict = "differs" if result["found"] else "same"
            print(f"{f'{variant} {number}':24} {verdict:10} {', '.join(result['where'])}", flush=True)
            for part in result["found"]:
                print(f"    {part}")
    print(f"\n{same} of {total}")
    return int(same < total)


if __name__ == "__main__":
    sys.exit(main())
