"""A run killed while it trains, while it saves and while it ends, and resumed each time, leaves what one left alone does."""

import json
from pathlib import Path

import forked
import pytest

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[1]
LATENTS = "encoding 9", "step 6", "saving 9"
TURNS = tuple(
    f"step {step}" for step in range(3, 13)
)  # of a student and its critic: before, and from step 2 on in turns
KILLS = [  # module, processes, source, workers, steps, places
    ("both", "one", "digits", 0, "12", ("step 6", "saving 9", "ending")),
    ("schedule", "one", "digits", 0, "12", ("step 6", "saving 9", "ending")),
    ("reward", "one", "digits", 0, "8", ("exploring 3", "regenerating 5", "measuring 7", "step 8")),
    ("edm", "one", "latents", 2, "12", LATENTS),
    ("edm", "one", "tar", 0, "12", LATENTS[1:]),
    ("dmd", "one", "digits", 0, "6", ("step 3", "step 4", "saving 5")),
    pytest.param("dmd", "one", "digits", 0, "12", TURNS, marks=pytest.mark.slow),
    pytest.param("dmd", "two", "digits", 0, "12", TURNS, marks=pytest.mark.slow),
    pytest.param("sid", "one", "digits", 0, "12", TURNS, marks=pytest.mark.slow),
    pytest.param("regression", "one", "digits", 0, "12", TURNS, marks=pytest.mark.slow),
    pytest.param("regression", "two", "digits", 0, "12", TURNS, marks=pytest.mark.slow),
    pytest.param("edm", "two", "latents", 2, "12", LATENTS, marks=pytest.mark.slow),
    pytest.param("edm", "two", "latents_on_the_fly", 2, "12", LATENTS[1:], marks=pytest.mark.slow),
    pytest.param("edm", "two", "edm2_latents", 2, "12", LATENTS[1:], marks=pytest.mark.slow),
]


def faults(folder: Path, *words: str) -> str:
    done = forked.run(*words, "--folder", folder, program="benchmarks.faults", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("module", "processes", "source", "workers", "steps", "places"), KILLS)
def test_a_run_killed_while_training_saving_and_ending_leaves_the_same_folder(
    tmp_path, module, processes, source, workers, steps, places
):
    """Drawn faults, and every operation on files: benchmarks/faults.py with other options."""
    kind = ("--module", module, "--processes", processes, "--source", source, "--workers", str(workers))
    said = faults(tmp_path, *kind, "--steps", steps, "--at", *places)
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
