"""Kill trainings, resume them with the same command, and compare with a run that nothing happened to. Keeps a ledger.

    python -m benchmarks.faults --hours 1                  from the repository; goes on where the ledger ends
    python -m benchmarks.faults --trials 300 --seed 1
    python -m benchmarks.faults --report                   what the ledger says of the newest commit in it, by kind
    python -m benchmarks.faults --seed 1 --trial 17        that trial again
    python -m benchmarks.faults --module edm --steps 12 --at "step 6" "saving 9" ending
    python -m benchmarks.faults --module edm --steps 12 --operations

A trial is one training with up to three faults, all of them drawn from (seed, trial): what learns (EDM's objective with fixed,
measured and learned weights and adaptive noise levels, consistency models by distillation, regression and training, a schedule, a
reward), in one process or two, some of them sharded, from digits, from pictures in a folder, in a zip or in a map-style dataset, or
from latents that are encoded ahead, at each step or in EDM2's files, with or without workers; and for each fault its kind (SIGKILL,
SIGTERM, SIGINT, SIGHUP, a disk that fills up, the newest checkpoint damaged after a SIGKILL), whom of two processes it meets, and
where: at a phase or some milliseconds into it, or before one of the operations on files (opening one to write, renaming, deleting,
making a folder), start and end included.

After each fault the same command resumes. In the end the run folder must be that of the run that nothing happened to: weights,
averages, optimiser, metrics.csv without its rows of speed, pictures, tables; events.jsonl, which lists resumes, and report.html,
which shows them, are left out. A line of the ledger (JSON) is one fault:

    identical          the same to the last bit
    refused in words   the run would not go on with what the fault had left, and said why in a sentence; with that undone it went
                       on and came out the same
    LOST               anything else; `found` says what

`--at` kills one run at these places, `--operations` one run before each operation in turn. Each attempt is a fork of this process.
Exit code 1 if anything is LOST.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from .fault_compare import differences
from .fault_kinds import KINDS, MODULES, SOURCES, Kind, new_folder, prepare
from .fault_ledger import LOST, lines, report, said
from .fault_runs import Ended, Fault, attempt

FAULTS = {
    "SIGKILL": 9,
    "SIGTERM": 3,
    "SIGINT": 2,
    "SIGHUP": 2,
    "corruption": 3,
    "full disk": 3,
}  # how often, relatively
STEPS = 24


def commit() -> str:
    """Of this repository, with a plus sign for one with changes."""
    where = Path(__file__).parent
    name, changes = (
        subprocess.run(["git", *words.split()], cwd=where, capture_output=True, text=True).stdout.strip()
        for words in ("rev-parse --short=12 HEAD", "status --porcelain --untracked-files=no")
    )
    return f"{name or 'unknown'}{'+' if changes else ''}"


class Reference:
    """The run that nothing happened to, once for each kind of training: kept in a folder of its commit."""

    def __init__(self, root: Path, kind: Kind, steps: int):
        self.folder = root / f"{kind.name}-{steps}"
        note = self.folder / "operations.json"
        if not note.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            ended = attempt(new_folder(self.folder, steps), kind)
            if not ended.is_done:
                raise RuntimeError(f"{kind.name} does not train:\n{ended.said[-3000:]}")
            note.write_text(json.dumps(ended.operations))
        self.operations: int = json.loads(note.read_text())

    def differences(self, folder: Path) -> list[str]:
        return differences(self.folder / "runs", folder / "runs")


def drawn_fault(draws: random.Random, kind: Kind, steps: int, operations: int, saved: int) -> Fault:
    """A fault of an attempt that begins with so many steps saved, in a run of so many operations on files."""
    (name,) = draws.choices(list(FAULTS), list(FAULTS.values()))
    whom = draws.choice(["all", "first", "other"]) if kind.world > 1 else "all"
    step = f"step {draws.randint(saved + 1, steps) if saved < steps else steps}"
    if name == "full disk":
        return Fault(name, step, bytes=int(2 ** draws.uniform(9, 19)))
    if draws.random() < 0.5:
        return Fault(name, draws.randint(1, max(1, operations * (steps - saved) // steps)), whom=whom)
    place = draws.choice([step, step, step, "saving", "ending"])
    if kind.source == "latents" and not saved and draws.random() < 0.5:
        place = f"encoding {draws.randint(1, 60)}"
    return Fault(name, place, draws.choice([0.0, draws.uniform(0.0, 0.03), draws.uniform(0.0, 0.3)]), whom)


def damaged(folder: Path, draws: random.Random) -> str | None:
    """Damage a file of the newest checkpoint; what was done, None where there is no checkpoint."""
    newest = max(folder.glob("runs/faults/checkpoints/step_*.ckpt"), default=None)
    if newest is None:
        return None
    parts = [newest] if newest.is_file() else sorted(path for path in newest.iterdir() if path.is_file())
    path = draws.choice([*parts, *parts, newest.with_suffix(".json")])
    if not path.exists():
        return None
    content, how = bytearray(path.read_bytes()), draws.choice(["bit", "cut", "zeros", "empty", "deleted"])
    place = draws.randrange(len(content))
    if how == "bit":
        content[place] ^= 1 << draws.randrange(8)
    elif how == "zeros":
        content[place : place + 4096] = bytes(len(content[place : place + 4096]))
    path.write_bytes(content[:place] if how == "cut" else b"" if how == "empty" else content)
    if how == "deleted":
        path.unlink()
    return f"{path.name}: {how}"


class Trial:
    """One training and its faults, in a folder that is deleted at the end."""

    def __init__(self, root: Path, kind: Kind, steps: int):
        self.kind, self.steps = kind, steps
        self.reference = Reference(root, kind, steps)
        self.folder = Path(tempfile.mkdtemp(dir=root, prefix=f"{kind.name}-"))  # beside the teacher
        new_folder(self.folder, steps)
        self.faults: list[dict[str, Any]] = []  # those that met the run
        self.found: list[str] = []

    @property
    def saved(self) -> int:
        """The step of the newest checkpoint."""
        return max((int(path.stem[5:]) for path in self.folder.glob("runs/faults/checkpoints/step_*.ckpt")), default=0)

    def attempt(self, fault: Fault | None) -> Ended:
        ended = attempt(self.folder, self.kind, fault)
        if fault is not None and ended.place is not None:
            self.faults.append({**asdict(fault), "where": ended.place, "codes": ended.codes, "outcome": "identical"})
            is_killed = fault.kind in ("SIGKILL", "corruption")
            if not (ended.is_done or ended.is_in_words or is_killed):
                self.found.append(f"{fault.kind} at {ended.place}: ended with {ended.codes}: {ended.said[-1500:]}")
        elif fault is not None and not ended.is_done:
            self.found.append(f"before any fault: ended with {ended.codes}: {ended.said[-1500:]}")
        return ended

    def corrupt(self, draws: random.Random) -> None:
        """After a kill: the newest checkpoint, tried, and put back if the run refuses to go on without it."""
        kept = self.folder / "kept"
        shutil.copytree(self.folder / "runs", kept) if (self.folder / "runs").exists() else None
        self.faults[-1]["damage"] = damaged(self.folder, draws)
        if self.faults[-1]["damage"] is not None:
            ended = attempt(self.folder, self.kind)
            if not ended.is_done and ended.is_in_words:
                self.faults[-1]["outcome"] = "refused in words"
                shutil.rmtree(self.folder / "runs")
                kept.rename(self.folder / "runs")
            elif not ended.is_done:
                self.found.append(f"{self.faults[-1]['damage']}: ended with {ended.codes}: {ended.said[-1500:]}")
        shutil.rmtree(kept, ignore_errors=True)

    def finish(self) -> list[dict[str, Any]]:
        """Resume to the end and compare; the trial's faults, each with what came of it."""
        try:
            ended = self.attempt(None)
            if ended.is_done:
                self.found += self.reference.differences(self.folder)
            else:
                self.found.append(f"does not resume: {ended.codes}: {ended.said[-1500:]}")
        except TimeoutError as error:
            self.found.append(str(error))
        if self.found and not self.faults:
            self.faults = [{"kind": "none", "where": "-"}]
        for fault in self.faults if self.found else []:
            fault |= {"outcome": LOST, "found": self.found}
        shutil.rmtree(self.folder)
        return self.faults


def random_trial(root: Path, seed: int, number: int, kinds: Sequence[Kind], steps: int) -> list[dict[str, Any]]:
    """A trial drawn from (seed, number): its faults, a line of the ledger each."""
    draws = random.Random(f"{seed}/{number}")
    kind = draws.choice(kinds)
    trial = Trial(root, kind, steps)
    try:
        for _ in range(draws.choice([1, 2, 3])):
            fault = drawn_fault(draws, kind, steps, trial.reference.operations, trial.saved)
            killed = replace(fault, kind="SIGKILL") if fault.kind == "corruption" else fault
            before = len(trial.faults)
            trial.attempt(killed)
            if fault.kind == "corruption" and len(trial.faults) > before:
                trial.faults[-1]["kind"] = "corruption"
                trial.corrupt(draws)
    except TimeoutError as error:
        trial.found.append(str(error))
    facts = {"seed": seed, "trial": number, "training": kind.name, "steps": steps}
    return [facts | fault for fault in trial.finish()]


def run_trials(root: Path, ledger: Path, options: argparse.Namespace, kinds: Sequence[Kind]) -> int:
    """Until the time or the trials are over, from where the ledger ends; the number of those that were LOST."""
    at, end = commit(), time.monotonic() + 3600 * (options.hours or 1e6)
    done = [line["trial"] for line in lines(ledger) if (line["commit"], line["seed"]) == (at, options.seed)]
    number, lost, left = max(done, default=-1) + 1, 0, options.trials or 10**9
    while time.monotonic() < end and left:
        begun, used = time.monotonic(), sum(os.times()[:4])
        faults = random_trial(root, options.seed, number, kinds, options.steps)
        facts = {
            "commit": at,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "cpu_seconds": round(sum(os.times()[:4]) - used, 1),
        }
        with ledger.open("a") as file:
            file.writelines(json.dumps({**facts, **fault}) + "\n" for fault in faults)
        print(said(faults, number, time.monotonic() - begun), flush=True)
        lost += any(fault["outcome"] == LOST for fault in faults)
        number, left = number + 1, left - 1
    print(report(ledger))
    return lost


def at_places(root: Path, kind: Kind, steps: int, places: Sequence[str | int]) -> list[dict[str, Any]]:
    """One run killed at these places, one after the other. RuntimeError if it never comes to one."""
    trial = Trial(root, kind, steps)
    for place in places:
        if trial.attempt(Fault("SIGKILL", place)).place is None:
            shutil.rmtree(trial.folder)
            raise RuntimeError(f"{kind.name} was never at {place}")
    return [{"training": kind.name} | fault for fault in trial.finish()]


def by_hand(root: Path, options: argparse.Namespace) -> int:
    """`--at` and `--operations`; the number of runs that were LOST."""
    lost = 0
    for module in options.module or MODULES:
        kind = Kind(module, options.processes, options.source, options.workers)
        last = Reference(root, kind, options.steps).operations
        runs = [[number] for number in range(options.operations, last + 1)] if options.operations else [options.at]
        for places in runs:
            begun = time.monotonic()
            faults = at_places(root, kind, options.steps, places)
            print(said(faults, "at", time.monotonic() - begun), flush=True)
            lost += faults[0]["outcome"] == LOST
    return lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--trials", type=int, help="how many; without either until it is interrupted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial", type=int, help="this one alone, without the ledger")
    parser.add_argument(
        "--report", nargs="?", const="", metavar="COMMIT", help="print what the ledger says, and run nothing"
    )
    parser.add_argument("--module", nargs="+", choices=MODULES, help="only these")
    parser.add_argument(
        "--processes", choices=["one", "two", "sharded"], default="one", help="with --at and --operations"
    )
    parser.add_argument("--source", choices=SOURCES, default="digits", help="likewise")
    parser.add_argument("--workers", type=int, default=0, help="likewise")
    parser.add_argument("--at", nargs="+", help="places of one run: 'step 9', 'saving 20', 'encoding 9', ending")
    parser.add_argument(
        "--operations", nargs="?", type=int, const=1, metavar="FIRST", help="a run for each operation on files"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"), help="of the ledger and the reference runs")
    options = parser.parse_args()
    ledger = options.folder / "ledger.jsonl"
    if options.report is not None:
        print(report(ledger, options.report))
        return 0
    torch.set_num_threads(1)
    root = options.folder.absolute() / commit()
    if root.name.endswith("+"):  # changes: what was there may be of other ones
        shutil.rmtree(root, ignore_errors=True)
    prepare(root)
    kinds = [kind for kind in KINDS if not options.module or kind.module in options.module]
    if options.at or options.operations:
        return int(by_hand(root, options) > 0)
    if options.trial is not None:
        faults = random_trial(root, options.seed, options.trial, kinds, options.steps)
        print(json.dumps(faults, indent=2))
        return int(any(fault["outcome"] == LOST for fault in faults))
    return int(run_trials(root, ledger, options, kinds) > 0)


if __name__ == "__main__":
    sys.exit(main())
