"""A reward on prompts of an imported pipeline, end to end: from prompt files with classes to figures, pictures and a model."""

import json
from pathlib import Path

import pytest
import torch
from messages import tells
from safetensors.torch import load_file

pytest.importorskip("diffusers")

from pipeline_folders import write_with_text

from lightning_diff.artifacts import import_pipeline, load_denoiser, read_record
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.data import Noise
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

TEXTS = ("a red cat", "the dog", "a blue cat")
CLASSES = (0, 1, 0)
RECIPE = """
name: reward
model:
  _target_: lightning_diff.AlignmentModule
  model: sd3
  reward:
    _target_: lightning_diff.rewards.WeightedSum
    rewards:
      brightness: {_target_: test_prompted_reward.brighter, _partial_: true}
      length: {_target_: test_prompted_reward.length, _partial_: true}
  lora: {_target_: lightning_diff.nets.lora.LoRA, rank: 2}
  copy: {_target_: lightning_diff.precision.quantized_copy, _partial_: true, smallest: 8}
  loss: {_target_: lightning_diff.rollouts.RewardLoss, levels: 2}
  plan:
    {_target_: lightning_diff.rollouts.Plan, prompts: 2, pool: 4, keep: 2, steps: 2, preview_steps: 1, precision: int8, batch: 8}
  optimizer: {_target_: torch.optim.SGD, _partial_: true, lr: 2.0}
data: {_target_: lightning_diff.data.Noise, model: sd3, batch_size: 8, prompts: prompts.jsonl}
callbacks:
  - {_target_: lightning_diff.callbacks.RewardReport, n: 3, rows: 2, columns: 2, steps: 2}
trainer: {accelerator: cpu, max_steps: 1, log_every_n_steps: 1, gradient_clip_val: 1.0}
"""
SEEN = []  # (classes, texts) that the reward was told


def brighter(images, label):
    """Of class 0 bright, of class 1 dark."""
    return images.flatten(1).mean(1) * (1 - 2 * label)


def length(images, label, prompts):
    SEEN.extend(zip(label.tolist(), prompts, strict=True))
    return torch.tensor([float(len(each)) for each in prompts])


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    root = tmp_path_factory.mktemp("prompted")
    write_with_text(root / "folder", ["a", "the", "red", "blue", "cat", "dog"])
    import_pipeline(root / "folder", root / "runs" / "sd3")
    lines = [json.dumps({"prompt": text, "label": label}) for text, label in zip(TEXTS, CLASSES, strict=True)]
    (root / "prompts.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture(autouse=True)
def _here(imported, monkeypatch):
    monkeypatch.chdir(imported)


def test_the_classes_of_prompts_reach_what_trains_on_them():
    prompts = Noise(4, model="sd3", prompts="prompts.jsonl").prompts
    assert (prompts.texts, prompts.labels) == (TEXTS, CLASSES)
    assert Noise(4, model="sd3", prompts=list(TEXTS)).prompts.labels is None
    Path("named.jsonl").write_text('{"prompt": "a cat", "label": "cat"}')
    with pytest.raises(UserError) as error:
        _ = Noise(4, model="sd3", prompts="named.jsonl").prompts
    assert tells(str(error.value), "named.jsonl: label 'cat' ... sd3 ... number")


def test_a_models_own_prompts_keep_their_classes():
    record = json.loads(Path("runs/sd3/model.json").read_text())
    Path("runs/told").mkdir(parents=True)
    told = record | {"prompts": TEXTS, "prompt_labels": CLASSES, "weights": []}
    Path("runs/told/model.json").write_text(json.dumps(told))
    Path("runs/told/model.safetensors").touch()
    assert Noise(4, model="told").prompts.labels == CLASSES
    assert Noise(4, model="told", prompts=["the dog", "a red cat"]).prompts.labels == (1, 0)
    assert Noise(4, model="told", prompts=["the dog", "a horse"]).prompts.labels is None


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's, of RMS norms under autocast
def test_a_reward_is_told_classes_and_texts_and_what_it_trains_is_whole():
    SEEN.clear()
    Path("reward.yaml").write_text(RECIPE)
    run.train(recipe.load("reward.yaml", []), "reward.yaml")
    assert set(SEEN) == set(zip(CLASSES, TEXTS, strict=True))
    rows = {row["metric"]: float(row["value"]) for row in read(Path("runs/reward/metrics.csv"))}
    assert rows["reward/length/mean"] == pytest.approx(sum(map(len, TEXTS)) / 3)
    assert {"reward/mean", "reward/brightness/mean", "reward/brightness/std"} <= rows.keys()
    assert Path("runs/reward/before_after.png").is_file()
    before, after = load_denoiser("runs/sd3").net.state_dict(), load_file("runs/reward/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name, each in before.items() if not torch.equal(each, after[name])}
    assert changed  # by the adapters, which are merged
    assert not [name for name in changed if name.startswith("null.")]
    record = read_record("runs/reward")
    assert (record.prompts, record.prompt_labels, record.weights) == (TEXTS, CLASSES, ())
    assert record.text == read_record("runs/sd3").text
