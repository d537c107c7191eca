"""The law of the loop: in a training step that logs nothing the host waits for the device zero times.

Each row of RUNS is a training on the pretend device with what usually watches it; the second number says how often the host waits
in a step that ends a window of the tables, after the zero of the others. `pytest -s` prints the lines that wait.
"""

import shutil
import sys
from collections import Counter

import pytest
import torch
from pretend_device import Waits
from pretend_lightning import CHOSEN, StepMarks, pretend_trainer
from tiny import TINY

from lightning_diff.artifacts import checkpoints, noise_levels_figure
from lightning_diff.runs import build, recipe
from lightning_diff.runs import train as run

pytestmark = pytest.mark.whole

SILENT, LOGGING = (2, 3, 6, 7), 4
EMA = "callbacks=[{_target_: lightning_diff.callbacks.EMA, profiles: {ema: {_target_: lightning_diff.ema.HalfLife, images: 64}}}"
WATCHED = f"{EMA}, {{_target_: lightning_diff.callbacks.NoiseLevels, windows: 2, gradient_every: 0}}"
DENOISER = f"{WATCHED}]"
STUDENT = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/start, warmup: 64"
TANGENTS = f"{WATCHED}, {{_target_: lightning_diff.callbacks.Tangents, memory: 1}}]"
PLAN = "{_target_: lightning_diff.rollouts.Plan, prompts: 8, pool: 6, keep: 4, steps: 3, preview_steps: 2, precision: bf16}"
REWARDED = (
    "model={_target_: lightning_diff.AlignmentModule, model: runs/start, reward: {_target_: rightwards.right, _partial_: true}, "
    f"plan: {PLAN}, loss: {{_target_: lightning_diff.rollouts.RewardLoss, levels: 2}}}}"
)  # an epoch is 8 x 4 x 2 = 64 examples, 4 steps, and ends with the window
MENTOR = f"{EMA}, {{_target_: lightning_diff.callbacks.Mentor, every: null}}]"
LEARNER = (
    "data={_target_: lightning_diff.data.Noise, model: runs/start, batch_size: 16}",
    "callbacks=[{_target_: lightning_diff.callbacks.LearnedGrid}]",
)
POLICY = "{_target_: lightning_diff.schedules.StepPolicy, max_steps: 3, width: 8, reference_steps: 2}"


def schedule(learner: str) -> tuple[str, ...]:
    return (f"model={{_target_: lightning_diff.ScheduleModule, model: runs/start, learner: {learner}}}", *LEARNER)


BASE = "base: {_target_: lightning_diff.noise.LogNormal}"
CLIPPED = "trainer.gradient_clip_val=1.0"
RUNS = {  # waits of a silent step, waits of one that logs, words
    "diffusion": (0, 2, (DENOISER, CLIPPED, "model.condition_dropout=0.2")),
    "diffusion, accumulated": (0, 2, (DENOISER, CLIPPED, "trainer.accumulate_grad_batches=2")),
    "diffusion, bf16": (0, 2, (DENOISER, CLIPPED, "trainer.precision=bf16-mixed")),
    "diffusion, fused": (
        0,
        2,
        (DENOISER, "model.optimizer={_target_: torch.optim.Adam, _partial_: true, fused: true}"),
    ),
    "diffusion, plain optimiser": (
        0,
        2,
        (DENOISER, "model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.1}"),
    ),
    "diffusion, measured weights": (
        0,
        2,
        (DENOISER, "model.weighting={_target_: lightning_diff.weighting.MeasuredVariance}"),
    ),
    "diffusion, learned weights": (
        0,
        2,
        (DENOISER, "model.weighting={_target_: lightning_diff.weighting.LearnedVariance}"),
    ),
    "diffusion, z-scores": (0, 2, (DENOISER, "model.weighting={_target_: lightning_diff.weighting.LossZScore}")),
    "diffusion, information": (
        0,
        2,
        (
            DENOISER,
            f"model.noise={{_target_: lightning_diff.noise.InfoNoise, {BASE}, refresh: 2}}",
        ),
    ),
    "diffusion, adaptive levels": (
        0,
        2,
        (
            DENOISER,
            f"model.noise={{_target_: lightning_diff.noise.AdaptiveNoise, {BASE}, refresh: 2}}",
        ),
    ),
    "consistency training": (0, 3, (f"{STUDENT}, objective: training}}", TANGENTS)),
    "consistency distillation": (0, 3, (f"{STUDENT}, objective: distillation, guidance: [1.0, 2.0]}}", TANGENTS)),
    "consistency, two passes": (0, 3, (f"{STUDENT}, objective: training, derivative: two_pass}}", TANGENTS)),
    "consistency, discrete": (0, 3, (f"{STUDENT}, objective: training, derivative: discrete}}", TANGENTS)),
    "consistency, regression": (
        0,
        2,
        (f"{STUDENT}, objective: regression, nodes: 3, guidance: [1.0, 2.0]}}", DENOISER),
    ),
    "rewards": (0, None, (REWARDED, MENTOR)),
    "schedule, stick breaking": (
        0,
        2,
        schedule("{_target_: lightning_diff.schedules.StickBreaking, steps: 4, width: 8}"),
    ),
    "schedule, actor and critic": (
        0,
        2,
        schedule("{_target_: lightning_diff.schedules.ActorCritic, steps: 4, width: 8}"),
    ),
    # At each of three steps it looks where each sample goes, and whether any goes on: what is computed next depends on it.
    "step policy": (6, 8, schedule(POLICY)),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run folder of a model, trained once, for what starts from one."""
    folder = tmp_path_factory.mktemp("start")
    path = folder / "start.yaml"
    path.write_text(TINY)
    words = ["trainer.max_steps=1", "model.condition_dropout=0.2", f"runs_dir={folder / 'runs'}"]
    run.train(recipe.load(path, words), path)
    return folder / "runs" / "start"


@pytest.fixture
def on_device(start, train, tmp_path, monkeypatch):
    """on_device(*words): a run of 8 steps of 16 images there; returns its waits, by step."""
    monkeypatch.delitem(sys.modules, "rightwards", raising=False)
    (tmp_path / "rightwards.py").write_text("def right(images, label):\n    return images[:, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(start, tmp_path / "runs" / "start")
    monkeypatch.setattr(
        noise_levels_figure, "write", lambda path, report: None
    )  # the most expensive part of so short a run
    in_order = build.in_order

    def on_device(*words: str) -> Waits:
        with pretend_trainer() as waits:
            monkeypatch.setattr(build, "in_order", lambda *parts: [StepMarks(waits), *in_order(*parts)])
            train("run", *CHOSEN, "trainer.log_every_n_steps=4", *words)
        return waits

    return on_device


@pytest.mark.parametrize("name", RUNS)
def test_the_host_waits_for_nothing_in_a_step_that_logs_nothing(on_device, name):
    silent, logging, words = RUNS[name]
    waits = on_device(*words)
    for step in (*SILENT, LOGGING):
        print(f"{name}, step {step}:", dict(Counter(waits.places(step))) or "no wait")
    assert {step: len(waits.places(step)) for step in SILENT} == dict.fromkeys(SILENT, silent), waits.places()
    if logging is not None:  # of rewards that step comes before an epoch is drawn, with as many waits as batches it has
        assert len(waits.places(LOGGING)) == logging, waits.places(LOGGING)


@pytest.mark.parametrize(
    "name", ["diffusion, measured weights", "consistency training", "rewards", "schedule, stick breaking"]
)
def test_a_run_there_resumes_bit_for_bit(on_device, name, tmp_path):
    """From a checkpoint in the middle, with what was on its way to the host then."""
    saved = ", {_target_: lightning_diff.callbacks.Checkpoint, every_images: 48, keep: 9}]"
    words = [f"{w[:-1]}{saved}" if w.startswith("callbacks=") else w for w in RUNS[name][2]]
    on_device(*words)
    folder = tmp_path / "runs" / "run"
    whole = torch.load(checkpoints.newest(folder / "checkpoints"), weights_only=True)
    (folder / "finished.json").unlink()
    for each in (folder / "checkpoints").glob("step_00000008*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    on_device(*words)
    again = torch.load(checkpoints.newest(folder / "checkpoints"), weights_only=True)
    assert again["global_step"] == whole["global_step"] == 8
    for part in ("state_dict", "callbacks"):
        assert _flat(again[part]) == _flat(whole[part])


def _flat(state: object) -> object:
    """Tensors as what can be compared."""
    if isinstance(state, torch.Tensor):
        return state.dtype, state.double().nan_to_num(nan=0.123).tolist()
    if isinstance(state, dict):
        return {key: _flat(value) for key, value in state.items()}
    return [_flat(value) for value in state] if isinstance(state, list | tuple) else state
