"""The checklist for a GPU goes through all of its code on a CPU, and where there is no GPU it says so."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from compilers import fresh

PARTS = ("parity", "training", "memory", "consistency", "sampling", "precision", "feeding")


@pytest.fixture
def checklist(tmp_path, monkeypatch):
    """checklist(*options): the exit code, the rows of the record, and the table."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    main = importlib.import_module("benchmarks.gpu.__main__").main

    def checklist(*options):
        with fresh():
            code = main([*options, "--out", str(tmp_path / "found")])
        rows = json.loads((tmp_path / "found" / "gpu.json").read_text())["rows"]
        return code, rows, (tmp_path / "found" / "gpu.md").read_text()

    return checklist


def test_without_a_gpu_every_part_says_that_it_needs_one(checklist, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, rows, table = checklist()
    assert code == 0
    assert [row["part"] for row in rows] == list(PARTS)
    assert all(row["status"] == "skipped" and "no CUDA device" in row["note"] for row in rows)
    assert table.count("no CUDA device") == len(PARTS)


def test_figures_within_their_bounds_are_ok_and_others_end_it_with_1(checklist, monkeypatch):
    options = ("--device", "cpu", "--small", "--parts", "parity")
    code, rows, table = checklist(*options)
    assert code == 0
    assert {row["status"] for row in rows} == {"ok"}
    assert sum(row["case"].endswith("bf16") for row in rows) == 6
    assert all(row["case"] in table for row in rows)
    parity = importlib.import_module("benchmarks.gpu.parity")
    monkeypatch.setattr(parity, "BFLOAT16", {"loss": 0.0})  # which rounding cannot meet
    code, rows, _ = checklist(*options)
    assert code == 1
    assert any(row["status"] == "off" for row in rows)


def test_a_part_that_fails_leaves_the_others(checklist, monkeypatch):
    parity = importlib.import_module("benchmarks.gpu.parity")
    monkeypatch.setattr(parity, "_batch", lambda *_: 1 / 0)
    code, rows, _ = checklist("--device", "cpu", "--small", "--parts", "parity,precision")
    assert code == 1
    assert (rows[0]["part"], rows[0]["status"]) == ("parity", "failed")
    assert "ZeroDivisionError" in rows[0]["note"]
    low = {row["case"]: row for row in rows if row["part"] == "precision" and row["status"] != "measured"}
    assert low["int8, torch"]["status"] == "ok"
    assert low["fp8, torch"]["status"] == "skipped"
    assert "compute capability" in low["fp8, torch"]["note"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of runs of three steps
def test_all_parts_run_in_small(checklist):
    code, rows, _ = checklist("--device", "cpu", "--small")
    assert code == 0
    assert {row["part"] for row in rows} == set(PARTS)
    for part in PARTS:
        assert any(row["value"] is not None for row in rows if row["part"] == part), part
