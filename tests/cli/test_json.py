"""--json: stdout is one document with the values that are printed or written else, and nothing beside it."""

import json
import math
from pathlib import Path

import pytest

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.artifacts.schedule import load_schedule
from lightning_diff.cli import as_json, main
from lightning_diff.runs import doctor, evaluate, find_schedule


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.fixture
def document(capsys):
    """document(*words, code=0): what a command with --json prints on stdout; what it says beside it must be on stderr."""

    def document(*words: str, code: int = 0) -> dict:
        capsys.readouterr()
        assert main([*words, "--json"]) == code
        return json.loads(capsys.readouterr().out, parse_constant=refuse)

    return document


def test_doctor(train, document):
    folder = train("run")
    found = document("doctor", "run")
    assert (found["run"], found["broken"]) == ("runs/run", False)
    assert [tuple(each.values()) for each in found["findings"]] == doctor.examine(folder)
    (folder / "model.json").write_text("{")
    broken = document("doctor", "run", code=1)
    assert broken["broken"]
    assert [each["what"] for each in broken["findings"] if each["kind"] == "broken"] == ["model.json"]


def test_evaluate_a_run_and_images(train, document, monkeypatch, capsys):
    folder = train(
        "run", "data={_target_: lightning_diff.data.Digits, batch_size: 16, conditional: false}", "trainer.max_steps=1"
    )
    monkeypatch.setattr(evaluate, "send_picture", lambda *_: print("said beside it"))
    (folder / "schedules").mkdir()
    found = document("evaluate", "run", "-n", "70", "--steps", "1", "--feature", "pixels")
    rows = {row["metric"]: row for row in read(folder / "metrics.csv") if row["n"]}
    assert {each["metric"] for each in found["figures"]} == rows.keys()
    for each in found["figures"]:
        assert f"{each['value']:.8g}" == rows[each["metric"]]["value"]
        assert (str(each["n"]), each["reference"]) == (rows[each["metric"]]["n"], rows[each["metric"]]["reference"])
    assert any(len(repr(each["value"])) > 12 for each in found["figures"])  # metrics.csv has eight digits
    assert found["files"] == {"table": "runs/run/metrics.csv", "reference": None}

    assert main(["sample", "run", "-n", "70", "--steps", "1", "--out", "drawn.npz"]) == 0
    words = ("--data", "run", "--feature", "pixels")
    again = document("evaluate", "--images", "drawn.npz", *words)
    assert {row["metric"]: row["value"] for row in again["figures"]} == {
        row["metric"]: row["value"] for row in found["figures"]
    }
    assert again["files"]["table"] == "drawn.metrics.csv"

    assert main(["evaluate", *words, "--write-reference", "moments.npz", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"figures": [], "remarks": [], "files": {"table": None, "reference": "moments.npz"}}
    assert err.startswith("moments.npz: moments of ")


def test_schedule(train, document, monkeypatch):
    monkeypatch.setattr(find_schedule, "NODES", 12)
    train("run")
    found = document("schedule", "run", "--steps", "3", "--trajectories", "4", "--out", "copy.json")
    kept = load_schedule("runs/run")
    assert found["sigmas"] == kept.sigmas
    assert (found["steps"], found["method"], found["solver"]) == (3, "art_solver", "heun")
    assert (found["protocol"], found["model"], found["costs"]) == (kept.protocol, kept.model, kept.costs)
    assert found["files"] == {
        "schedule": "runs/run/schedule.json",
        "picture": "runs/run/schedule.png",
        "copy": "copy.json",
    }


def test_an_error_leaves_stdout_empty(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in ("doctor", "evaluate", "schedule", "compare"):
        assert main([command, "nowhere", "--json"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)


def test_what_json_has_no_words_for():
    values = {"nan": math.nan, "infinite": (math.inf, 0.1), "path": Path("a/b"), "none": None, "yes": True, "n": 2**63}
    assert as_json.plain(values) == {
        "nan": None,
        "infinite": [None, 0.1],
        "path": "a/b",
        "none": None,
        "yes": True,
        "n": 2**63,
    }
    with pytest.raises(TypeError, match="set"):
        as_json.plain({"a": {1}})


def test_it_is_ascii_for_whatever_the_terminal_can_write(capsys):
    as_json.print_json({"name": "Fréchet"})
    assert capsys.readouterr().out.isascii()
