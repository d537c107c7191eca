"""A run killed while it trains, while it saves and while it ends, and resumed each time, leaves what one left alone does."""

import os
from pathlib import Path

import forked
import pytest


@pytest.mark.parametrize("variant", ["both", "ScheduleModule"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks")
def test_a_run_killed_while_training_saving_and_ending_leaves_the_same_folder(variant):
    """20 random moments and every operation on files: benchmarks/faults.py without these options."""
    script = Path(__file__).parents[1] / "benchmarks" / "faults.py"
    options = ["--variants", variant, "--steps", "12", "--at", "step 6", "saving 9", "ending"]
    done = forked.run(*options, program=script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same       step 6, saving 9, ending" in done.stdout
    assert done.stdout.splitlines()[-1] == "3 of 3"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks")
def test_a_run_for_a_reward_killed_while_exploring_regenerating_and_training_leaves_the_same_folder():
    script = Path(__file__).parents[1] / "benchmarks" / "faults.py"
    kills = ["exploring 3", "regenerating 5", "measuring 7", "step 8"]
    options = ["--variants", "AlignmentModule", "--steps", "8", "--at", *kills]
    done = forked.run(*options, program=script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "4 of 4"
