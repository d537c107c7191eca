"""The recipe of the step policy, two updates of it, and the sampling command of its header."""

import pytest
from PIL import Image

from lightning_diff.cli import app as cli

pytestmark = pytest.mark.whole


def test_from_a_denoiser_to_a_policy_to_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["trainer.accelerator=cpu", "trainer.max_steps=2"]
    assert cli.main(["train", "digits_edm", *short, "data.batch_size=16", "callbacks=[]"]) == 0
    small = ["data.batch_size=2", "model.learner.max_steps=3", "model.learner.reference_steps=2"]
    assert cli.main(["train", "digits_steps", *short, *small]) == 0
    capsys.readouterr()
    assert cli.main(["sample", "digits_edm", "--schedule", "digits_steps", "--n", "10", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("heun/policy_0.97: a mean of 3.00 steps and 5.00 evaluations")
    with Image.open("runs/digits_edm/samples/heun3_policy_0.97_seed0.png") as picture:
        assert min(picture.size) > 0
