"""Trainings conditioned on named tensors are trainings like any other: one process or two, whole or in shards, killed or not."""

import shutil
from pathlib import Path

import conditioned
import forked
import pytest
import torch
from messages import tells
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves

from lightning_diff import load_denoiser
from lightning_diff.artifacts import checkpoints, read_record
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.condition import Condition, of_batch
from lightning_diff.data import Stream
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import DiffusionModule
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run
from lightning_diff.samplers.generate import generate
from lightning_diff.samplers.guidance import guided
from lightning_diff.schedules import karras

RECIPE = """
seed: 3
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: conditioned.TextNet}
  weighting: {_target_: lightning_diff.weighting.MeasuredVariance, gamma: 1.0, warmup: 32, refresh: 2, min_count: 1}
  condition_dropout: 0.25
data: {_target_: conditioned.TextToy, n: 256, batch_size: 16}
callbacks:
  - _target_: lightning_diff.callbacks.EMA
    profiles: {ema: {_target_: lightning_diff.ema.HalfLife, images: 50, ramp_up: null}}
  - {_target_: lightning_diff.callbacks.NoiseLevels, bins: 8, windows: 4}
trainer: {accelerator: cpu, max_steps: 8, log_every_n_steps: 1, gradient_clip_val: 1.0}
"""
STUDENT = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 64, guidance: [1, 3]}"
REGRESSED = STUDENT.replace("warmup: 64", "objective: regression, nodes: 5")
SHARDED = "trainer.strategy=model_parallel"


def train(name: str, *overrides: str) -> Path:
    Path(f"{name}.yaml").write_text(RECIPE)
    run.train(recipe.load(f"{name}.yaml", overrides), f"{name}.yaml")
    return Path("runs") / name


def train_on_two(name: str, *overrides: str) -> Path:
    Path(f"{name}.yaml").write_text(RECIPE)
    forked.run_two("train", f"{name}.yaml", "trainer.devices=2", *overrides)
    return Path("runs") / name


def losses(folder: Path) -> torch.Tensor:
    rows = [row for row in read(folder / "metrics.csv") if row["metric"] == "train/loss"]
    return torch.tensor([float(row["value"]) for row in rows], dtype=torch.float64)


def tensors(state: object) -> list[torch.Tensor]:
    """All of a part of a checkpoint, in order."""
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]


def difference(one: Path, other: Path) -> float:
    """Relative, of the averaged weights."""
    here, there = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert here.keys() == there.keys()
    parts = [torch.cat([value.flatten().double() for value in each.values()]) for each in (here, there)]
    return float((parts[0] - parts[1]).norm() / parts[1].norm())


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of 8 steps, and what is distilled from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("plain"))
        train("teacher")
        train("student", STUDENT)
        train("regressed", REGRESSED)
        train("worse", "trainer.max_steps=2")
    return folder / "runs"


def test_what_is_dropped_is_a_function_of_the_position_and_becomes_the_null_condition():
    module = DiffusionModule(conditioned.TextNet((2,), conditioned.SHAPES), condition_dropout=0.25)
    data = conditioned.TextToy(batch_size=64, n=256)
    module.seed = 3
    module.denoiser.net.keep_null_condition(null := data.null_condition)
    stream = Stream(data, seed=3)
    batch = stream.__getitems__(range(512))
    given, shown = of_batch(batch), of_batch(module.prepare_batch(batch))
    assert isinstance(given, Condition)
    assert isinstance(shown, Condition)
    dropped = (shown.tensors["text"] == null.tensors["text"]).flatten(1).all(1)
    assert 0.2 < float(dropped.float().mean()) < 0.3
    for name, each in shown.tensors.items():
        assert each.dtype == given.tensors[name].dtype
        assert torch.equal(each[~dropped], given.tensors[name][~dropped])
        assert bool((each[dropped] == null.tensors[name]).all())
    again = module.prepare_batch(stream.__getitems__([400, 7, 31]))
    assert torch.equal(again["condition.text"], shown.tensors["text"][[400, 7, 31]])


def test_dropping_needs_to_know_what_none_is_and_so_does_guidance():
    module = DiffusionModule(conditioned.TextNet((2,), conditioned.SHAPES), condition_dropout=0.25)
    module.seed = 3
    batch = Stream(conditioned.TextToy(batch_size=8, n=64), seed=3).__getitems__(range(8))
    with pytest.raises(UserError) as caught:
        module.prepare_batch(batch)
    assert tells(str(caught.value), "model.condition_dropout: ...")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{_target_: lightning_diff.data.Toy, conditional: true, batch_size: 16}", "... text, mask ..."),
        ("{_target_: conditioned.OtherToy, batch_size: 16}", "... text ... (3, 4) ... (3, 5)"),
    ],
)
def test_data_of_another_condition_are_refused(data, message):
    net = "model.net={_target_: conditioned.TextNet, condition_shapes: {text: [3, 4], mask: [3]}}"
    with pytest.raises(UserError) as caught:
        train("odd", net, f"data={data}")
    assert tells(str(caught.value), message)
    assert not Path("runs/odd").exists()


@pytest.mark.whole
def test_the_model_knows_its_null_condition_and_says_what_it_was_trained_with(plain):
    record, denoiser = read_record(plain / "teacher"), load_denoiser(plain / "teacher")
    assert record.label_dropout == 0.25
    assert record.conditions.takes_condition
    data = conditioned.TextToy(batch_size=8, n=64)
    null = data.null_condition
    assert isinstance(own := denoiser.net.null_condition, Condition)
    assert all(torch.equal(own.tensors[name].float(), each.float()) for name, each in null.tensors.items())
    x, sigma = torch.randn(5, 2), torch.rand(5) + 0.1
    torch.testing.assert_close(denoiser(x, sigma), denoiser(x, sigma, null.expand(5)))


def test_guidance_goes_from_the_null_condition_to_the_prompts_and_a_guide_is_told_the_same(plain):
    denoiser = load_denoiser(plain / "teacher").told(prompts := conditioned.TextToy(batch_size=8).prompts)
    x, sigma, numbers = torch.randn(5, 2), torch.rand(5) + 0.1, torch.tensor([3, 0, 7, 7, 1])
    with_, without = denoiser(x, sigma, prompts(numbers)), denoiser(x, sigma)
    torch.testing.assert_close(guided(denoiser, numbers, scale=3.0)(x, sigma), without + 3 * (with_ - without))
    guide = load_denoiser(plain / "worse").told(prompts)
    by_other = guide(x, sigma, numbers) + 2 * (with_ - guide(x, sigma, numbers))
    torch.testing.assert_close(guided(denoiser, numbers, scale=2.0, guide=guide)(x, sigma), by_other)
    drawn = generate(denoiser, (2,), range(5), numbers, sigmas=karras(4), solver="heun", guidance=2.0)
    one = generate(denoiser, (2,), [3], numbers[3:4], sigmas=karras(4), solver="heun", guidance=2.0)
    torch.testing.assert_close(drawn[3:4], one, rtol=1e-5, atol=1e-6)


@pytest.mark.whole
@pytest.mark.parametrize(
    "overrides",
    [("data.workers=2",), ("trainer.accumulate_grad_batches=4",)],
    ids=["workers", "accumulation"],
)
def test_workers_and_accumulation_train_the_same(plain, overrides):
    assert difference(train("other", *overrides), plain / "teacher") < 1e-6


@pytest.mark.whole
@pytest.mark.parametrize("overrides", [("trainer.accumulate_grad_batches=2",), (SHARDED,)], ids=["ddp", "shards"])
def test_two_processes_train_as_one(plain, overrides):
    other = train_on_two("other", *overrides)
    torch.testing.assert_close(losses(other), losses(plain / "teacher"), rtol=2e-6, atol=0)
    assert difference(other, plain / "teacher") < 1e-5
    reports = [(folder / "noise_levels.csv").read_text() for folder in (other, plain / "teacher")]
    rows = [[float(value or "nan") for line in text.splitlines()[1:] for value in line.split(",")] for text in reports]
    torch.testing.assert_close(*map(torch.tensor, rows), rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.whole
@pytest.mark.parametrize("overrides", [(), (SHARDED,)], ids=["ddp", "shards"])
@pytest.mark.parametrize(("model", "name"), [(STUDENT, "student"), (REGRESSED, "regressed")])
def test_a_student_of_a_guided_teacher_on_two_processes_is_that_of_one(plain, model, name, overrides):
    shutil.copytree(plain, "runs")
    other = train_on_two("other", model, *overrides)
    torch.testing.assert_close(losses(other), losses(plain / name), rtol=1e-5, atol=0)
    assert difference(other, plain / name) < 1e-5
    weights = load_file(other / "model.safetensors")
    assert float(weights["mlp.conditioning.guidance.linear.weight"].abs().max()) > 0  # which starts at zero


@pytest.mark.whole
@pytest.mark.parametrize(
    ("model", "name"),
    [(None, "teacher"), (STUDENT, "student"), (REGRESSED, "regressed")],
    ids=["diffusion", "consistency", "regression"],
)
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(plain, model, name):
    shutil.copytree(plain, "runs")
    words = [model] if model else []
    train("killed", *words, "trainer.max_steps=3")
    folder = train("killed", *words, "data.workers=2")
    whole = plain / name
    one, other = (checkpoints.read(checkpoints.newest(each / "checkpoints")) for each in (folder, whole))
    for part in ("state_dict", "optimizer_states"):
        assert all(torch.equal(*pair) for pair in zip(tensors(one[part]), tensors(other[part]), strict=True)), part
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.whole
@pytest.mark.parametrize("model", [None, STUDENT], ids=["diffusion", "consistency"])
def test_a_compiled_run_is_an_eager_one(plain, model):
    shutil.copytree(plain, "runs")
    how = (
        "model.compile={_target_: lightning_diff.modules.Compile, fullgraph: true, backend: aot_eager, region: network}"
    )
    Path("fast.yaml").write_text(RECIPE)
    done = forked.run("train", "fast.yaml", *([model] if model else []), how)  # where annotations are not looked at
    assert done.returncode == 0, done.stderr
    assert "eager" not in done.stdout + done.stderr
    torch.testing.assert_close(
        losses(Path("runs/fast")), losses(plain / ("student" if model else "teacher")), rtol=1e-5, atol=0
    )


def test_a_start_of_other_weights_keeps_what_it_knows_of_none(plain):
    shutil.copytree(plain, "runs")
    folder = train("more", "model.start=runs/teacher", "trainer.max_steps=1")
    assert load_denoiser(folder).net.null_condition is not None


ALIGN = (
    "model={_target_: lightning_diff.AlignmentModule, model: runs/teacher, reward: {_target_: conditioned.to_the_right, "
    "_partial_: true}, plan: {_target_: lightning_diff.rollouts.Plan, prompts: 4, pool: 6, keep: 4, steps: 4, preview_steps: 2, "
    "precision: bf16, batch: 12}, loss: {_target_: lightning_diff.rollouts.RewardLoss, levels: 2}, "
    "lora: {_target_: lightning_diff.nets.lora.LoRA, rank: 2}}"
)


@pytest.mark.whole
def test_a_reward_trains_on_prompts_by_number_on_two_processes_as_on_one(plain):
    shutil.copytree(plain, "runs")
    one = train("reward", ALIGN)
    other = train_on_two("rewarded", ALIGN)
    torch.testing.assert_close(losses(other), losses(one), rtol=1e-5, atol=1e-7)
    assert difference(other, one) < 1e-5
    assert difference(one, plain / "teacher") > 1e-3
    state = checkpoints.read(checkpoints.newest(one / "checkpoints"))
    assert not [name for name in state["state_dict"] if "prompt" in name]
    train("stopped", ALIGN, "trainer.max_steps=3")
    stopped = train("stopped", ALIGN)
    assert (stopped / "model.safetensors").read_bytes() == (one / "model.safetensors").read_bytes()


@pytest.mark.whole
@pytest.mark.parametrize(
    "learner", ["StickBreaking, steps: 4, width: 8", "StepPolicy, max_steps: 5, width: 8, reference_steps: 4"]
)
@pytest.mark.parametrize("data", ["TextToy", "Unprompted"])
def test_a_schedule_is_learned_on_prompts_or_on_the_datas_own_conditions(plain, learner, data):
    shutil.copytree(plain, "runs")
    model = (
        "model={_target_: lightning_diff.ScheduleModule, model: runs/teacher, guidance: 2.0, "
        f"learner: {{_target_: lightning_diff.schedules.{learner}}}}}"
    )
    data = f"data={{_target_: conditioned.{data}, n: 256, batch_size: 16}}"
    folder = train("grid", model, data, "callbacks=[]", "trainer.max_steps=3")
    assert (folder / "schedule.json").exists() or (folder / "step_policy.safetensors").exists()


def test_the_older_name_of_the_dropout_still_serves(plain):
    shutil.copytree(plain, "runs")
    train("old", "model.label_dropout=0.25", "trainer.max_steps=3")
    assert recipe.read_yaml("runs/old/recipe.yaml")["model"]["condition_dropout"] == 0.25
    folder = train("old", "model.condition_dropout=0.25")
    assert (folder / "model.safetensors").read_bytes() == (plain / "teacher" / "model.safetensors").read_bytes()
    net = conditioned.TextNet((2,), conditioned.SHAPES)
    assert DiffusionModule(net, label_dropout=0.1).condition_dropout == 0.1
    with pytest.raises(ValueError, match="another name"):
        DiffusionModule(net, label_dropout=0.1, condition_dropout=0.1)
