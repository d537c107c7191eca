"""What people get wrong with networks and pipelines of diffusers: one line, exit code 2, and no run folder."""

from pathlib import Path

import pytest
from messages import tells

pytest.importorskip("diffusers")

from pipeline_folders import write

from lightning_diff.artifacts import import_pipeline
from lightning_diff.cli import main

CONDITIONS = "{encoder_hidden_states: [333, 12], pooled_projections: [10]}"
WIDER = "{encoder_hidden_states: [333, 32], pooled_projections: [10]}"
RECIPE = """
name: new
model: {_target_: lightning_diff.DiffusionModule, start: sd3}
data: {_target_: conditioned.Drawn, size: [4, 8, 8], batch_size: 8, conditions: %s}
trainer: {accelerator: cpu, max_steps: 1}
"""
NET = "model={_target_: lightning_diff.DiffusionModule, net: {_target_: lightning_diff.nets.Diffusers, class_name: %s, config: {}}}"
TIME = "model.time={_target_: lightning_diff.denoiser.TableTime, betas: sigmoid}"
NOISE = "data={_target_: lightning_diff.data.Noise, model: sd3, batch_size: 8, prompts: %s}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """runs/sd3 of a folder without text encoders."""
    root = tmp_path_factory.mktemp("bad")
    write(root / "folder", "sd3")
    import_pipeline(root / "folder", root / "runs" / "sd3")
    (root / "new.yaml").write_text(RECIPE % CONDITIONS)
    (root / "wider.yaml").write_text(RECIPE % WIDER)
    (root / "empty.txt").write_text("\n")
    (root / "one.txt").write_text("one\n")
    return root


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["sample", "sd3", "--prompt", "a cat"], "--prompt: runs/sd3 has no text encoder ... model.json ..."),
        (["train", "new.yaml", NOISE % "one.txt"], "... one.txt: runs/sd3 has no text encoder ... model.json ..."),
        (["train", "new.yaml", NOISE % "empty.txt"], "... empty.txt ... no prompts ..."),
        (["train", "new.yaml", NOISE % "[]"], "... data.prompts ... none ..."),
        (["train", "wider.yaml"], "... encoder_hidden_states ... (333, 12) ... (333, 32) ..."),
        (["train", "new.yaml", TIME], "... model.time.betas: 'sigmoid' ... linear, scaled_linear, squaredcos_cap_v2"),
        (["train", "new.yaml", NET % "VQModel"], "... class_name ... VQModel ... UNet2DModel ..."),
        (["train", "new.yaml", "model.retime=true"], "... model.retime: ... this time ... model.time ..."),
    ],
)
def test_it_is_told_in_a_line(place, monkeypatch, capsys, words, facts):
    monkeypatch.chdir(place)
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert tells(said, f"error: {facts}"), said
    assert not Path("runs/new").exists()
