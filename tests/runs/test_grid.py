"""A grid of runs: its points and their names, all checked first; one that fails stops no other; signals reach those that train."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from messages import tells

from lightning_diff.cli import main
from lightning_diff.runs import grid, recipe, side_by_side

TINY = """
seed: 3
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: lightning_diff.nets.MLP, width: 16, depth: 1}
  noise: {_target_: lightning_diff.noise.LogNormal}
data: {_target_: lightning_diff.data.Toy, n: 256, batch_size: 16}
trainer: {accelerator: cpu, max_steps: 2, log_every_n_steps: 1}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def names(*overrides: str, words: tuple[str, ...] = ("tiny.yaml",)) -> list[str]:
    return [point.settings["name"] for point in grid.points(words, overrides)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,1,2", ["0", "1", "2"]),
        ("0, 1", ["0", "1"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("{a: 1, b: 2},null", ["{a: 1, b: 2}", "null"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("it's,fine", ["it's", "fine"]),
        ("[1,2]", ["[1,2]"]),
        ("", [""]),
    ],
)
def test_values_stand_between_commas_outside_brackets_and_quotes(text, expected):
    assert grid.values(text, "key") == expected


def test_every_combination_has_a_name_that_says_what_differs(place):
    assert names("seed=0,1", "model.net.width=16,32", "trainer.max_steps=4") == [
        "tiny,seed=0,width=16",
        "tiny,seed=0,width=32",
        "tiny,seed=1,width=16",
        "tiny,seed=1,width=32",
    ]
    first = grid.points(["tiny.yaml"], ["seed=0,1", "trainer.max_steps=4"])[0]
    assert (first.settings["seed"], first.settings["trainer"]["max_steps"]) == (0, 4)
    assert recipe.load("tiny.yaml", first.overrides) == first.settings


def test_keys_with_one_last_part_are_told_apart_and_values_are_fit_for_folders(place):
    assert names("data.n=128,256", "model.noise.std=1.0,1.5") == [
        "tiny,n=128,std=1.0",
        "tiny,n=128,std=1.5",
        "tiny,n=256,std=1.0",
        "tiny,n=256,std=1.5",
    ]
    assert grid._short({"data.seed", "seed", "model.net.depth", "callbacks.0"}) == {
        "data.seed": "data.seed",
        "seed": "seed",
        "model.net.depth": "depth",
        "callbacks.0": "callbacks.0",
    }
    law = (
        "model.noise={_target_: lightning_diff.noise.LogNormal, mean: -1.0},{_target_: lightning_diff.noise.LogUniform}"
    )
    assert all(Path(name).name == name and not set(name) & set(" {}:/") for name in names(law))
    targets = names("model.noise._target_=lightning_diff.noise.LogNormal,lightning_diff.noise.LogUniform")
    assert targets == ["tiny,_target_=LogNormal", "tiny,_target_=LogUniform"]


def test_values_that_differ_by_their_sign_have_names_that_do(place):
    assert names("model.noise.mean=-1.5,1.5") == ["tiny,mean=-1.5", "tiny,mean=1.5"]


def test_a_name_of_ones_own_and_very_long_ones(place):
    assert names("name=mine", "seed=0,1") == ["mine,seed=0", "mine,seed=1"]
    assert names("name=a,b") == ["a", "b"]
    long = names(f"name={'x' * 200}", "seed=0,1")
    assert len(set(long)) == 2
    assert max(map(len, long)) <= grid.LONGEST


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["seed=0"], "-m: ... commas"),
        (["seed=0,,1"], "command line: seed=0,,1: ... missing"),
        (["seed=0,-1"], "tiny.yaml: seed: ... -1"),
        (["model.net.wdith=1,2"], "tiny.yaml: model.net.wdith: ... width"),
        (["seed=0,0"], "tiny.yaml: name: ... runs/tiny,seed=0"),
        (["nothere.yaml", "seed=0,1"], "nothere.yaml: ... recipe"),
    ],
)
def test_every_point_is_checked_before_the_first_trains(place, capsys, monkeypatch, words, facts):
    monkeypatch.setattr(side_by_side, "run", lambda *_: pytest.fail("trained before checking"))
    assert main(["train", "tiny.yaml", "-m", *words]) == 2
    assert tells(capsys.readouterr().err, f"error: {facts}")
    assert not Path("runs").exists()


def test_jobs_are_for_grids(place, capsys):
    assert main(["train", "tiny.yaml", "--jobs", "2"]) == 2
    assert tells(capsys.readouterr().err, "error: --jobs: ... -m")


def test_a_launchers_processes_train_one_run(place, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "tiny.yaml", "-m", "seed=0,1", "--jobs", "2"]) == 2
    assert tells(capsys.readouterr().err, "error: --jobs: ... 2")


def test_a_dry_run_describes_each(place, capsys):
    assert main(["train", "tiny.yaml", "-m", "seed=0,1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "name: tiny,seed=0" in out
    assert "name: tiny,seed=1" in out
    assert not Path("runs").exists()


@pytest.fixture
def begins(monkeypatch):
    """begins(code): what each run's process does in place of training, with `point` (its label) at hand."""

    def begins(code: str) -> None:
        monkeypatch.setattr(
            side_by_side,
            "_command",
            lambda point: [sys.executable, "-c", f"import os, sys, time\npoint = {point.label!r}\n{code}"],
        )

    return begins


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_that_fails_stops_no_other_and_the_exit_code_says_so(place, begins, capfd, jobs):
    begins("print('trained', point)\nsys.exit(2 if point == 'seed=1' else 0)")
    assert main(["train", "tiny.yaml", "-m", "seed=0,1,2", "--jobs", str(jobs)]) == 1
    out = capfd.readouterr().out
    assert out.count("trained seed=") == 3
    assert [line.split(maxsplit=1)[1].split("  ")[0] for line in out.splitlines()[-3:]] == [
        "done",
        "failed (exit code 2)",
        "done",
    ]
    if jobs > 1:
        assert "[seed=2] trained seed=2\n" in out
    begins("")
    assert main(["train", "tiny.yaml", "-m", "seed=0,1", "--jobs", str(jobs)]) == 0


def test_runs_side_by_side_run_at_the_same_time_with_a_share_of_the_cores(place, begins, monkeypatch, capfd):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    # Each waits for the other's file; one after the other they would wait for ever.
    begins(
        "open(point, 'w').close()\nend = time.time() + 60\n"
        "while not (os.path.exists('seed=0') and os.path.exists('seed=1')):\n"
        "    assert time.time() < end\n    time.sleep(0.01)\nprint(os.environ['OMP_NUM_THREADS'])"
    )
    assert main(["train", "tiny.yaml", "-m", "seed=0,1", "--jobs", "2"]) == 0
    assert capfd.readouterr().out.count("] 4\n") == 2


def test_gpus_are_shared_among_runs_side_by_side(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert [side_by_side.environment(slot, 2)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["4,6", "5"]
    assert [side_by_side.environment(slot, 4)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["4", "5", "6", "4"]
    assert side_by_side.environment(0, 1)["CUDA_VISIBLE_DEVICES"] == "4,5,6"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_reaches_the_run_that_trains_and_the_rest_is_not_begun(place, begins, capfd, signum, code):
    begins(
        "import signal\nfor s in (2, 15): signal.signal(s, lambda n, f: sys.exit(130 if n == 2 else 75))\n"
        "open('begun', 'w').close()\ntime.sleep(60)"
    )

    def send() -> None:
        while not Path("begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signum)

    threading.Thread(target=send).start()
    assert main(["train", "tiny.yaml", "-m", "seed=0,1"]) == code
    endings = [line.split(maxsplit=1)[1] for line in capfd.readouterr().out.splitlines()[-2:]]
    assert endings == ["stopped", "not begun"]


def test_a_run_of_a_grid_is_a_run_like_any_other(place, capfd):
    """In this process, by the words that the grid's process is given."""
    (first, _) = grid.points(["tiny.yaml"], ["seed=0,1"])
    assert main(side_by_side._command(first)[3:]) == 0
    assert Path("runs/tiny,seed=0/finished.json").exists()
    assert main(["resume", "tiny,seed=0", "trainer.max_steps=3"]) == 0
