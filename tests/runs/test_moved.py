"""Run folders of version 0.1, whose recipes and checkpoints name classes by the paths of then, go on as if nothing had moved.

data/version_0_1.tar.xz was written by that version: `runs/` after a few steps (start, reward with adapters within an epoch, a
grid, a policy of steps), `whole/` what ten uninterrupted steps of it left, and the recipes.
"""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_diff.foundation.binding import locate, signature
from lightning_diff.foundation.errors import UserError
from lightning_diff.foundation.moved import ARGUMENTS, FILES, NAMES, NODES, current, modern
from lightning_diff.runs import recipe
from lightning_diff.runs.train import train

OLD = Path(__file__).parent / "data" / "version_0_1.tar.xz"
# Bit for bit on the machine that wrote the file; other processors round otherwise. One step differs by a thousand times that.
NEAR = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture
def old(tmp_path, monkeypatch):
    with tarfile.open(OLD) as file:
        file.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)


def resume(name, *overrides):
    source = Path("runs") / name / "recipe.yaml"
    train(recipe.load(source, ["resume=required", "trainer.max_steps=10", *overrides]), source)


def weights_of(name, file):
    return load_file(f"runs/{name}/{file}"), load_file(f"whole/{name}/{file}")


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:.* is now:FutureWarning")
@pytest.mark.parametrize(
    ("name", "file"),
    [("reward", "model.safetensors"), ("start", "model.safetensors"), ("steps", "step_policy.safetensors")],
)
def test_an_old_run_folder_goes_on_to_the_weights_of_a_run_that_never_stopped(old, name, file):
    before = load_file(f"runs/{name}/{file}")
    resume(name)
    resumed, whole = weights_of(name, file)
    assert resumed.keys() == whole.keys()
    for key in whole:
        torch.testing.assert_close(resumed[key], whole[key], **NEAR)
    assert any(not torch.allclose(before[key], whole[key], **NEAR) for key in whole)


@pytest.mark.filterwarnings("ignore:.* is now:FutureWarning")
def test_an_old_grid_goes_on_to_the_levels_of_a_run_that_never_stopped(old):
    resume("grid")
    resumed, whole = (json.loads(Path(where, "grid/schedule.json").read_text()) for where in ("runs", "whole"))
    assert resumed["sigmas"] == pytest.approx(whole["sigmas"], rel=1e-4)
    assert resumed["protocol"] == whole["protocol"]


def test_a_recipe_with_old_names_says_what_they_are_called_now(old):
    with pytest.warns(FutureWarning) as warned:
        settings = recipe.load("reward.yaml")
    remarks = [str(warning.message) for warning in warned]
    assert sum("._target_: " in remark for remark in remarks) == 2  # of the adapters and of the old policy
    assert sum("is now called loss." in remark for remark in remarks) == 2  # of objective and levels
    assert settings["model"]["lora"]["_target_"] == "lightning_diff.nets.lora.LoRA"


def test_every_new_name_is_there():
    for new in FILES.values():
        __import__(new)
    for new in NAMES.values():
        locate(new, "")
    for target, renamed in ARGUMENTS.items():
        assert current(target) == target
        for new in renamed.values():
            outer, _, inner = new.rpartition(".")
            assert (outer or inner) in (signature(locate(target, "")) or {})
            assert not outer or inner in (signature(locate(NODES[target][outer], "")) or {})


def test_an_old_file_can_be_imported_with_a_warning():
    with pytest.warns(FutureWarning, match=r"lightning_diff\.errors .*lightning_diff\.foundation\.errors"):
        from lightning_diff.errors import UserError as old

    assert old is UserError


def test_an_old_argument_takes_the_place_of_the_new_one(monkeypatch):
    monkeypatch.setitem(ARGUMENTS, "some.Class", {"old": "new"})
    node, remarks = modern({"model": [{"_target_": "some.Class", "new": {"a": 1, "b": 2}, "old": {"b": 3}}]})
    assert node == {"model": [{"_target_": "some.Class", "new": {"a": 1, "b": 3}}]}
    assert remarks == ["model.0.old: is now called new"]


def test_an_old_argument_may_move_into_a_node_which_is_made_where_there_is_none(monkeypatch):
    monkeypatch.setitem(ARGUMENTS, "some.Class", {"old": "part.new"})
    monkeypatch.setitem(NODES, "some.Class", {"part": "some.Part"})
    made = {"_target_": "some.Class", "part": {"_target_": "some.Part", "new": 3}}
    assert modern({"_target_": "some.Class", "old": 3}, "model") == (made, ["model.old: is now called part.new"])
    for present in ({"_target_": "some.Other", "new": 1, "more": 2}, {"new": 1, "more": 2}):
        node, _ = modern({"_target_": "some.Class", "part": present, "old": 3})
        assert node["part"] == {"_target_": "some.Part", **present, "new": 3}


FLAT = """
model:
  _target_: lightning_diff.AlignmentModule
  model: runs/start
  reward: {_target_: lightning_diff.rewards.Ink}
  objective: nft
  options: {kl: 0.5, beta: 0.7}
  levels: 2
  spread: 0.5
  baseline: pool
  advantage_clip: 2.0
data: {_target_: lightning_diff.data.Digits, batch_size: 8}
trainer: {max_steps: 3}
"""
GROUPED = """
model:
  _target_: lightning_diff.AlignmentModule
  model: runs/start
  reward: {_target_: lightning_diff.rewards.Ink}
  advantages: {_target_: lightning_diff.rollouts.Advantages, clip: 2.0, baseline: pool, spread: 0.5}
  loss: {_target_: lightning_diff.rollouts.RewardLoss, levels: 2, name: nft, options: {kl: 0.5, beta: 0.7}}
data: {_target_: lightning_diff.data.Digits, batch_size: 8}
trainer: {max_steps: 3}
"""


@pytest.mark.filterwarnings("ignore:.* is now:FutureWarning")
@pytest.mark.parametrize("override", ["model.options.kl=1.0", "model.loss.options.kl=1.0"])
def test_flat_keys_of_an_alignment_are_its_records_and_so_are_overrides_of_either_form(tmp_path, override):
    (tmp_path / "a.yaml").write_text(f"name: same{FLAT}")
    (tmp_path / "b.yaml").write_text(f"name: same{GROUPED}")
    flat, grouped = recipe.load(tmp_path / "a.yaml"), recipe.load(tmp_path / "b.yaml")
    assert recipe.changes(flat, grouped) == []
    assert flat["model"]["loss"]["name"] == "nft"
    for file in ("a.yaml", "b.yaml"):
        changed = recipe.load(tmp_path / file, [override])
        assert [change.key for change in recipe.changes(grouped, changed)] == ["model.loss.options.kl"]
        assert changed["model"]["loss"]["options"] == {"kl": 1.0, "beta": 0.7}
