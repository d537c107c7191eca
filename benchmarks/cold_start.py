"""What commands and imports cost before any work: CPU seconds of a fresh process, of one checkout or of two side by side.

    python benchmarks/cold_start.py [CHECKOUT [CHECKOUT]] [--times 5] [--only WORD ...]

Each case is run in a process of its own with one thread, by each checkout in turn, so that a drift of the machine meets both;
a round before those that count fills Python's and matplotlib's caches. Seconds are user + system, of children too, which other work
on the machine changes little. Prints the median of each checkout and, for two, the ratio of the sums, second over first.
"train, first step" is digits_edm with its callbacks until the first step's callbacks are called.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
CALLBACKS = "{_target_: lightning_diff.callbacks.EMA}, {_target_: lightning_diff.callbacks.NoiseLevels}"
EXIT = """
import os
from lightning.pytorch import Callback

class Exit(Callback):
    def on_train_batch_end(self, *arguments):
        os._exit(0)
"""
CLI = ("-m", "lightning_diff")
CASES: dict[str, tuple[str, ...]] = {
    "import torch": ("-c", "import torch"),
    "import lightning_diff.denoiser": ("-c", "import lightning_diff.denoiser"),
    "from lightning_diff import load_denoiser": ("-c", "from lightning_diff import load_denoiser"),
    "from lightning_diff import DiffusionModule": ("-c", "from lightning_diff import DiffusionModule"),
    "--help": (*CLI, "--help"),
    "wrong option": (*CLI, "sample", "runs/a", "--nn", "3"),
    "misspelt key": (*CLI, "train", "digits_edm", "model.nett=3"),
    "runs": (*CLI, "runs"),
    "describe": (*CLI, "describe"),
    "doctor RUN": (*CLI, "doctor", "runs/a"),
    "compare RUN RUN": (*CLI, "compare", "runs/a", "runs/b"),
    "sample RUN --n 1 --steps 1": (*CLI, "sample", "runs/a", "--n", "1", "--steps", "1"),
    "export RUN": (*CLI, "export", "runs/a"),
    "train digits_edm --dry-run": (*CLI, "train", "digits_edm", "--dry-run"),
    "train, first step": (
        *(*CLI, "train", "digits_edm", "name=first", "resume=never"),
        f"callbacks=[{CALLBACKS}, {{_target_: lightning_diff.callbacks.Evaluate}}, {{_target_: first_step.Exit}}]",
    ),
}
REFUSED = ("wrong option", "misspelt key")  # with exit code 2


def cpu_seconds(words: tuple[str, ...], checkout: Path, folder: Path, code: int = 0) -> float:
    """Of one process and its children, which has to end with that exit code."""
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != code:
        raise SystemExit(f"{checkout}: {' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(folder: Path, checkout: Path) -> None:
    """Two runs to look at, by the first checkout, whose files later ones read too."""
    (folder / "first_step.py").write_text(EXIT)
    for name, seed in (("a", 0), ("b", 1)):
        short = (f"name={name}", f"seed={seed}", "trainer.max_steps=2", f"callbacks=[{CALLBACKS}]")
        cpu_seconds((*CLI, "train", "digits_edm", *short), checkout, folder)


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[HERE], help="folders that hold lightning_diff/")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="cases with one of these words in their name")
    options = parser.parse_args()
    checkouts: list[Path] = options.checkouts
    row("CPU seconds", *(checkout.resolve().name for checkout in checkouts), *["ratio of sums"] * (len(checkouts) == 2))
    row("---", *["---:"] * (2 * len(checkouts) - 1))
    with tempfile.TemporaryDirectory() as made:
        prepare(Path(made), checkouts[0])
        for name, words in CASES.items():
            if not any(word in name for word in options.only or [""]):
                continue
            rounds = [
                [cpu_seconds(words, checkout, Path(made), 2 if name in REFUSED else 0) for checkout in checkouts]
                for _ in range(options.times + 1)
            ]
            sides = list(zip(*rounds[1:], strict=True))
            ratio = [f"{sum(sides[1]) / sum(sides[0]):.2f}"] if len(sides) == 2 else []
            row(name, *(f"{statistics.median(side):.2f}" for side in sides), *ratio)


if __name__ == "__main__":
    main()
