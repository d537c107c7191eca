"""Damage to any file of a run folder is repaired or refused; the whole table is benchmarks/corruption.py."""

import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "corruption.py"


def test_a_flipped_byte_in_any_file_is_noticed_or_does_no_harm():
    rows = runpy.run_path(str(BENCHMARK))["outcomes"](["flip"])
    assert len(rows) > 25
    assert [row for row in rows if row[3].startswith("WRONG")] == []
    outcome = {(kind, file): text for kind, file, _, text in rows}
    assert "no table of metrics" in outcome["killed", "metrics.csv"]
    assert "checksum is wrong" in outcome["finished", "ema/images-000000000064_sigma_rel-0.05.safetensors"]
    assert "is damaged" in outcome["finished", "model.safetensors"]
    assert outcome["killed", "checkpoints/step_00000006.ckpt"] == "recovered"
