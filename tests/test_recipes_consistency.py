"""The digits' consistency recipes, a few steps of each, from a denoiser to samples in one and two steps."""

import pytest

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

pytestmark = pytest.mark.whole

SHORT = ["trainer.accelerator=cpu", "data.batch_size=16", "trainer.max_steps=2"]


@pytest.mark.parametrize("name", ["digits_scd", "digits_sct"])
def test_a_recipe_of_ours_makes_a_model_of_one_and_two_steps(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for recipe_name, more in {
        "digits_edm": ["callbacks=[]"],
        name: ["callbacks.4.feature=pixels", "callbacks.5.feature=pixels", "callbacks.4.n=70", "callbacks.5.n=70"],
    }.items():
        source = recipe.find(recipe_name)
        run.train(recipe.load(recipe_name, [*SHORT, *more]), source)
    measured = {(row["solver"].split("/")[0], row["nfe"]) for row in read(f"runs/{name}/metrics.csv") if row["nfe"]}
    assert measured == {("consistency", "1"), ("consistency", "2")}
    assert (tmp_path / "runs" / name / "samples" / "000000000032.png").exists()
    assert {row["metric"] for row in read(f"runs/{name}/metrics.csv")} >= {"train/tangent_norm", "train/warmup"}
