"""What happens to a run whose files are damaged: each file, each damage, then the same command again.

    python benchmarks/corruption.py [--damages truncate flip delete empty zeros]

A small run with averages, snapshots and noise-level statistics is killed at step 6 of 8. One of its files is damaged and the
run resumed: "recovered" means that it ended with exactly the weights, averages and optimiser state of the run that nothing
happened to; "refused" shows the sentence. The files of a finished run are damaged likewise, and its model is asked for samples,
its snapshots for an average of another width: the same as before, or refused. Anything else is WRONG, and the exit code 1.
"""

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lightning_diff.artifacts import checkpoints
from lightning_diff.cli import main as command

RECIPE = """
name: run
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: lightning_diff.nets.MLP, width: 16, depth: 1}
  weighting: {_target_: lightning_diff.weighting.MeasuredVariance, warmup: 0, refresh: 1}
  noise: {_target_: lightning_diff.noise.AdaptiveNoise, base: {_target_: lightning_diff.noise.LogNormal}, warmup: 0, refresh: 1}
data: {_target_: lightning_diff.data.Toy, n: 256, conditional: true, batch_size: 16}
callbacks:
  - _target_: lightning_diff.callbacks.EMA
    profiles: {ema: {_target_: lightning_diff.ema.HalfLife, images: 64}}
    snapshot_every: 32
  - {_target_: lightning_diff.callbacks.NoiseLevels, windows: 4}
  - {_target_: lightning_diff.callbacks.Checkpoint, every_images: 32, every_minutes: null, keep: 2}
trainer: {accelerator: cpu, max_steps: 8, log_every_n_steps: 1}
"""
KILL = """
from lightning.pytorch import Callback

class Killed(BaseException):
    pass

class Kill(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 7:
            raise Killed
"""


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


USES = {  # of a finished run's files
    "model": ("sample", "run", "--n", "4", "--out", "out/samples.npz"),
    "snapshots": ("export", "run", "--sigma-rel", "0.07", "--out", "out"),
}
DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncate": truncate,
    "flip": flip,
    "delete": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


def run(*words: str) -> tuple[int, str]:
    """Exit code and the error, of one command in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = command(words)
    return code, errors.getvalue().strip().splitlines()[-1] if errors.getvalue().strip() else ""


def state(folder: Path) -> dict[str, np.ndarray]:
    """Everything that training made, by a path of keys."""
    path = checkpoints.newest(folder / "checkpoints")
    assert path is not None
    content = checkpoints.read(path)
    found: dict[str, np.ndarray] = {}

    def walk(value: object, key: str) -> None:
        if isinstance(value, torch.Tensor):
            found[key] = value.numpy().copy()
        elif isinstance(value, dict):
            for name, item in value.items():
                walk(item, f"{key}.{name}")

    for part in ("state_dict", "optimizer_states", "callbacks"):
        value = content[part]
        walk(dict(enumerate(value)) if isinstance(value, list) else value, part)
    return found


def made(*words: str) -> tuple[int, str, bytes | None]:
    """Exit code, error and the file that a command wrote into `out`."""
    shutil.rmtree("out", ignore_errors=True)
    code, error = run(*words)
    files = sorted(path for path in Path("out").glob("*") if path.suffix in (".npz", ".safetensors"))
    return code, error, files[0].read_bytes() if files else None


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(value, b[key], equal_nan=True) for key, value in a.items())


def outcomes(damages: list[str]) -> list[tuple[str, str, str, str]]:
    """(run, file, damage, outcome), in a temporary working folder."""
    here = Path.cwd()
    rows = []
    with tempfile.TemporaryDirectory() as home, contextlib.chdir(home):
        Path("recipe.yaml").write_text(RECIPE)
        Path("kill_at_7.py").write_text(KILL)
        train = ("train", "recipe.yaml", "name=run")
        assert run(*train)[0] == 0
        shutil.move("runs/run", "whole")
        with contextlib.suppress(BaseException):
            run(*train, "callbacks.3={_target_: kill_at_7.Kill}")
        shutil.move("runs/run", "killed")
        expected = state(Path("whole"))
        shutil.copytree("whole", "runs/run")
        wanted = {part: made(*words) for part, words in USES.items()}
        for kind, source in (("killed", Path("killed")), ("finished", Path("whole"))):
            for file in sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file()):
                for damage in damages:
                    shutil.rmtree("runs", ignore_errors=True)
                    shutil.copytree(source, "runs/run")
                    DAMAGES[damage](Path("runs/run") / file)
                    if kind == "killed":
                        code, error = run(*train)
                        is_right = code == 0 and same(state(Path("runs/run")), expected)
                    else:
                        use = "snapshots" if file.parent.name == "ema" else "model"
                        code, error, content = made(*USES[use])
                        is_right = content == wanted[use][2]
                    outcome = (
                        f"refused: {error}" if code == 2 else "recovered" if is_right else f"WRONG: exit code {code}"
                    )
                    rows.append((kind, str(file), damage, outcome))
    assert Path.cwd() == here
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", nargs="+", choices=DAMAGES, default=list(DAMAGES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = outcomes(options.damages)
    files = dict.fromkeys(row[:2] for row in rows)
    print("| run | file | " + " | ".join(options.damages) + " |\n|" + "---|" * (2 + len(options.damages)))
    sentences: list[str] = []
    for kind, file in files:
        cells = []
        for outcome in (row[3] for row in rows if row[:2] == (kind, file)):
            if outcome.startswith("refused") and outcome not in sentences:
                sentences.append(outcome)
            cells.append(f"refused ({sentences.index(outcome) + 1})" if outcome in sentences else outcome)
        print(f"| {kind} | {file} | " + " | ".join(cells) + " |")
    for number, sentence in enumerate(sentences, 1):
        print(f"{number}. {sentence.removeprefix('refused: ')}")
    wrong = sum(row[3].startswith("WRONG") for row in rows)
    print(f"{len(rows) - wrong} of {len(rows)} recovered or refused")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
