"""A run killed while it trains, while it saves and while it ends, and resumed each time, leaves what one left alone does."""

import json
from pathlib import Path

import forked
import pytest

ROOT = Path(__file__).parents[1]
KILLS = {
    "both": ("12", "step 6", "saving 9", "ending"),
    "schedule": ("12", "step 6", "saving 9", "ending"),
    "reward": ("8", "exploring 3", "regenerating 5", "measuring 7", "step 8"),
    "edm": ("12", "step 6", "saving 9"),
    "edm of tars": ("12", "step 6", "saving 9"),
}
SOURCES = {"edm": "latents", "edm of tars": "tar"}


def faults(folder: Path, *words: str) -> str:
    done = forked.run(*words, "--folder", folder, program="benchmarks.faults", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("module", KILLS)
def test_a_run_killed_while_training_saving_and_ending_leaves_the_same_folder(tmp_path, module):
    """Drawn faults, and every operation on files: benchmarks/faults.py with other options."""
    steps, *places = KILLS[module]
    source = SOURCES.get(module, "digits")
    said = faults(tmp_path, "--module", module.split()[0], "--source", source, "--steps", steps, "--at", *places)
    assert "identical" in said
    assert ", ".join(f"SIGKILL at {place}" for place in places) in said


def test_the_ledger_has_every_fault_and_goes_on_where_it_ended(tmp_path):
    words = ("--module", "schedule", "--steps", "6", "--trials", "1", "--seed", "5")
    for trials in (1, 2):
        said = faults(tmp_path, *words)
        lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
        assert {line["trial"] for line in lines} <= set(range(trials))
        assert all(line["outcome"] in ("identical", "refused in words") for line in lines)
    assert f"of {len(lines)} identical" in said
