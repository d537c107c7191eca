"""A run is a function of (recipe, seed): not of processes, accumulation, or interruptions."""

from pathlib import Path

import forked
import pytest
import torch
from messages import tells

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run
from lightning_diff.runs.describe import describe

RECIPE = """
name: {name}
seed: 3
model:
  _target_: lightning_diff.DiffusionModule
  net: {{_target_: lightning_diff.nets.UNet, channels: 16, channel_mult: [1], num_blocks: 1, attention: []}}
  weighting: {{_target_: lightning_diff.weighting.MeasuredVariance, gamma: 1.0, warmup: 32, refresh: 2, min_count: 1}}
  noise:
    _target_: lightning_diff.noise.AdaptiveNoise
    base: {{_target_: lightning_diff.noise.LogNormal}}
    warmup: 32
    refresh: 2
    min_count: 1
  condition_dropout: 0.2
data: {{_target_: lightning_diff.data.Digits, batch_size: 16}}
callbacks:
  - {{_target_: lightning_diff.callbacks.EMA}}
  - {{_target_: lightning_diff.callbacks.NoiseLevels, bins: 8, windows: 4}}
trainer: {{accelerator: cpu, max_steps: 12, log_every_n_steps: 1, gradient_clip_val: 1.0}}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(RECIPE.format(name=name))
        return path

    return write


def train(path: Path, *overrides: str) -> None:
    run.train(recipe.load(path, overrides), path)


def losses(name: str) -> list[float]:
    return [float(row["value"]) for row in read(f"runs/{name}/metrics.csv") if row["metric"] == "train/loss"]


def final(name: str) -> dict:
    (path,) = sorted(Path(f"runs/{name}/checkpoints").glob("step_00000012.ckpt"))
    return torch.load(path, weights_only=True)


def flat(state, prefix=""):
    if isinstance(state, dict):
        return {key: value for name, part in state.items() for key, value in flat(part, f"{prefix}.{name}").items()}
    if isinstance(state, list | tuple):
        return {key: value for i, part in enumerate(state) for key, value in flat(part, f"{prefix}.{i}").items()}
    return {prefix: state}


@pytest.mark.whole
def test_two_processes_and_accumulation_give_the_losses_of_one_plain_process(write):
    train(write("plain"))
    train(write("accumulated"), "trainer.accumulate_grad_batches=2")
    forked.run_two("train", write("two"), "trainer.devices=2")
    expected = torch.tensor(losses("plain"))
    assert len(expected) == 12
    for name in ("accumulated", "two"):
        assert torch.allclose(torch.tensor(losses(name)), expected, rtol=1e-5), name


OTHERS = (
    "model.noise={_target_: lightning_diff.noise.InfoNoise, base: {_target_: lightning_diff.noise.LogNormal}, refresh: 3}",
    "model.weighting={_target_: lightning_diff.weighting.LearnedVariance, channels: 32, "
    "outer: {_target_: lightning_diff.weighting.LossZScore}}",
)


CONSISTENCY = (
    "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 150, net: {dropout: 0.2}, "
    "noise: {_target_: lightning_diff.noise.AdaptiveNoise, base: {_target_: lightning_diff.noise.LogNormal}, refresh: 3}}",
)
LEARNT = {(): "weighting.weights", OTHERS: "weighting.outer.sums", CONSISTENCY: "weighting.coefficients"}


@pytest.mark.whole
@pytest.mark.parametrize("learners", LEARNT, ids=["measured", "learned", "consistency"])
def test_a_run_stopped_and_resumed_equals_one_that_was_not(write, learners):
    if learners is CONSISTENCY:
        train(write("teacher"), "trainer.max_steps=1")
    train(write("whole"), *learners)
    train(write("parts"), "trainer.max_steps=5", *learners)
    assert len(losses("parts")) == 5
    train(write("parts"), "callbacks.1.windows=4", *learners)
    whole, parts = flat(final("whole")), flat(final("parts"))
    assert losses("whole") == losses("parts")
    for name in ("noise.masses", LEARNT[learners]):
        start = flat(torch.load("runs/parts/checkpoints/step_00000005.ckpt", weights_only=True))
        assert not torch.equal(whole[f".state_dict.{name}"], start[f".state_dict.{name}"]), name
    for key in whole:
        if key.startswith((".state_dict", ".optimizer_states", ".callbacks.EMA", ".images_seen", ".global_step")):
            same = (
                torch.equal(whole[key], parts[key])
                if isinstance(whole[key], torch.Tensor)
                else whole[key] == parts[key]
            )
            assert same, key


@pytest.mark.whole
def test_accumulation_may_change_on_resume(write):
    train(write("whole"))
    train(write("parts"), "trainer.max_steps=5")
    train(write("parts"), "trainer.accumulate_grad_batches=2")
    assert torch.allclose(torch.tensor(losses("parts")), torch.tensor(losses("whole")), rtol=1e-5)


@pytest.mark.whole
def test_a_finished_run_is_left_as_it_is(write, capsys):
    train(write("done"))
    before = Path("runs/done/metrics.csv").read_text()
    train(write("done"))
    assert tells(capsys.readouterr().out, "...already trained to step 12 ... trainer.max_steps ... resume=never")
    assert Path("runs/done/metrics.csv").read_text() == before
    model = Path("runs/done/model.safetensors").read_bytes()
    for name in ("model.safetensors", "finished.json"):  # as if killed after the last checkpoint
        Path("runs/done", name).unlink()
    train(write("done"))
    assert "already trained" not in capsys.readouterr().out
    assert Path("runs/done/model.safetensors").read_bytes() == model
    assert Path("runs/done/metrics.csv").read_text() == before


@pytest.mark.whole
def test_another_recipe_in_the_same_folder_is_refused_and_never_moves_it_aside(write):
    train(write("mine"), "trainer.max_steps=2")
    with pytest.raises(UserError, match=r"another recipe \(model.net.channels was 16, is 8\)"):
        train(write("mine"), "model.net.channels=8")
    train(write("mine"), "model.net.channels=8", "resume=never", "trainer.max_steps=2")
    assert Path("runs/mine.1/checkpoints/step_00000002.ckpt").exists()


@pytest.mark.whole
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(write):
    train(write("hurt"), "trainer.max_steps=4")
    train(write("hurt"), "trainer.max_steps=6")
    newest = Path("runs/hurt/checkpoints/step_00000006.ckpt")
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"step_00000006.ckpt: .* bytes .*checkpoint before"):
        train(write("hurt"))
    assert len(losses("hurt")) == 12


@pytest.mark.whole
def test_going_back_to_an_earlier_checkpoint_continues_from_there_next_time_too(write):
    train(write("back"), "trainer.max_steps=2")
    train(write("back"), "trainer.max_steps=9")
    train(write("back"), "trainer.max_steps=4", "resume=runs/back/checkpoints/step_00000002.ckpt")
    names = sorted(path.name for path in Path("runs/back/checkpoints").glob("*.ckpt*"))
    assert names == ["step_00000002.ckpt", "step_00000004.ckpt", "step_00000009.ckpt.aside"]
    train(write("back"), "trainer.max_steps=6")
    assert len(losses("back")) == 6


def test_a_gpu_without_float64_is_left_alone(write, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"trainer.accelerator: mps .*float64"):
        train(write("mac"), "trainer.accelerator=mps")
    path = write("mac")
    assert " on cpu\n" in describe(recipe.load(path, ["trainer.accelerator=auto"]), path)


def test_resume_required_without_a_checkpoint_is_refused(write):
    with pytest.raises(UserError, match="no usable checkpoint"):
        train(write("new"), "resume=required")


def test_a_checkpoint_of_another_network_is_refused_in_one_sentence(write):
    train(write("small"), "trainer.max_steps=1")
    with pytest.raises(UserError, match=r"checkpoint .*another network"):
        train(write("large"), "model.net.channels=32", "resume=runs/small/checkpoints/step_00000001.ckpt")


def test_a_batch_that_does_not_divide_is_refused_in_words(write):
    with pytest.raises(UserError, match="batch_size 16 "):
        train(write("odd"), "trainer.accumulate_grad_batches=3")
