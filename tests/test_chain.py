"""examples/chain: the one command, with networks and lengths of seconds; what is there is not trained again."""

import csv
import math
import runpy
from pathlib import Path

import pytest

from lightning_diff.runs import recipe

CHAIN = Path(__file__).parents[1] / "examples" / "chain"
ON_CPU = ["trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.log_every_n_steps=1", "callbacks=[]"]
SMALL = {
    "edm": ["data.batch_size=16", "model.net.channels=8"],
    "one_step": ["data.batch_size=16", "model.critic.start=0"],
    "reward": [
        "model.reward={_target_: lightning_diff.rewards.Ink}",
        *(f"model.plan.{size}" for size in ("prompts=2", "pool=4", "keep=2", "steps=3", "preview_steps=2")),
        "model.loss.levels=2",
        "data.batch_size=8",
    ],
}


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """chain(): the program's main, with small recipes in place of its own."""
    monkeypatch.chdir(tmp_path)
    for stage, words in SMALL.items():
        small = recipe.compose(CHAIN / f"{stage}.yaml", [*words, *ON_CPU])
        recipe.save(small, tmp_path / f"{stage}.yaml")
    program = runpy.run_path(str(CHAIN / "run.py"))["main"]
    program.__globals__.update(HERE=tmp_path, N=80, DRAWS=2)
    return program


@pytest.mark.whole
def test_one_command_leaves_the_table_of_everything(chain, capsys):
    chain(["report=false"])
    out = capsys.readouterr().out
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in Path("chain/table.md").read_text().splitlines()
    ]
    assert [row[1] for row in lines[2:]] == ["35", "9", "9", "5", "5", "2", "1", "35", "9"]
    assert [row[0].split(",")[0] for row in lines[2:]] == [*["trained", "trained", "scheduled"], *["trained", "scheduled"],
                                                          "distilled", "distilled", "rewarded", "rewarded"]  # fmt: skip
    with Path("runs/chain_one_step/metrics.csv").open() as file:
        figures = [row for row in csv.DictReader(file) if row["metric"] == "frechet_classifier" and row["nfe"] == "1"]
    assert {row["seed"] for row in figures} == {"0", "1"}
    mean = sum(float(row["value"]) for row in figures) / 2
    assert math.isclose(float(lines[-3][2].split()[0]), mean, rel_tol=0.01)
    assert "the same samples when it is loaded back" in out
    for name in ("chain.png", "compare.png", "compare.csv", "student/model.safetensors"):
        assert (Path("chain") / name).is_file()
    before = {path: path.read_bytes() for path in Path("runs").rglob("*.safetensors")}
    chain(["report=false"])
    assert capsys.readouterr().out.count("already trained") == 3
    assert {path: path.read_bytes() for path in Path("runs").rglob("*.safetensors")} == before


def test_the_recipes_are_right():
    for stage in SMALL:
        assert recipe.load(CHAIN / f"{stage}.yaml")["name"] == f"chain_{stage}"
    program = runpy.run_path(str(CHAIN / "run.py"))
    assert {row.run for row in program["ROWS"]} == {f"chain_{stage}" for stage in program["STAGES"]}
