"""A saved denoiser comes back the same; a file that is not right is one sentence, and no code of its own is run."""
# ruff: noqa: E501 (messages stand on one line)

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lightning_diff.artifacts import load_denoiser, read_record, save_denoiser
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import MLP

NET = {"_target_": "lightning_diff.nets.MLP", "shape": [2], "num_classes": 3, "width": 16, "depth": 1}


@pytest.fixture
def denoiser():
    net = MLP((2,), num_classes=3, width=16, depth=1)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return Denoiser(net, 0.7, "trigflow")


@pytest.fixture
def saved(tmp_path, denoiser):
    save_denoiser(tmp_path, denoiser, NET, shape=(2,), num_classes=3, ema="slow", images=1280)
    return tmp_path


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def message(path) -> str:
    with pytest.raises(UserError) as error:
        load_denoiser(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [".", "model.safetensors", "model.json"])
def test_what_is_saved_comes_back_from_the_folder_or_either_file(saved, denoiser, name):
    before = torch.get_rng_state()
    loaded = load_denoiser(saved / name)
    assert torch.equal(before, torch.get_rng_state())
    assert not loaded.training
    x, sigma, label = torch.randn(5, 2), torch.rand(5) + 0.1, torch.tensor([0, 1, 2, 3, 0])
    assert torch.equal(loaded(x, sigma, label), denoiser(x, sigma, label))
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


def test_the_record_says_what_the_weights_are(saved):
    record = read_record(saved)
    assert (record.net, record.shape, record.num_classes) == (NET, (2,), 3)
    assert (record.sigma_data, record.time, record.ema, record.images) == (0.7, "trigflow", "slow", 1280)


def test_the_weights_of_a_channels_last_network_with_tied_tensors_can_be_saved(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)).to(memory_format=torch.channels_last)
    net[1].weight = net[0].weight
    save_denoiser(tmp_path, Denoiser(net), NET, shape=[3, 8, 8])
    stored = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in net.state_dict().items())


def test_a_failed_save_leaves_the_old_model(saved, denoiser, monkeypatch):
    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    old = (saved / "model.safetensors").read_bytes()
    nn.init.zeros_(denoiser.net.input.weight)
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be written: No space left on device"):
        save_denoiser(saved, denoiser, NET, shape=(2,))
    assert (saved / "model.safetensors").read_bytes() == old
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


def test_missing_files(tmp_path, saved):
    assert message(tmp_path / "runs") == (
        f"{tmp_path}/runs: has no model.json; it is written when training ends, or by lightning-diff export"
    )
    (saved / "model.safetensors").unlink()
    assert message(saved) == f"{saved}/model.safetensors: no such file"


def test_a_damaged_file(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert message(saved) == (
        f"{path}: is damaged or not the file that {saved}/model.json describes; make both again with export"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"net": NET | {"width": 8}}, "the file has conditioning.label.weight (16, 3), the network conditioning.label.weight (8, 3)"),
        ({"net": NET | {"depth": 2}}, "the file has no blocks.1.linear0.weight, the network blocks.1.linear0.weight (16, 16)"),
        ({"net": NET | {"num_classes": 0}}, "the file has conditioning.label.bias (16,), the network none"),
    ],
)  # fmt: skip
def test_weights_of_another_network(saved, changes, expected):
    edit(saved, **changes)
    assert message(saved) == f"{saved}/model.safetensors: weights of another network: {expected}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 99}, "is of format 99; this version reads up to 1: update it"),
        ({"net": NET | {"widht": 3}}, "net.widht: unknown key of lightning_diff.nets.MLP; did you mean width?"),
        ({"net": NET | {"depth": 0}}, "net: MLP: depth must be at least 1, got 0"),
        ({"net": {}}, "net: expected a network's _target_ and arguments"),
        ({"time": "edn"}, "Denoiser: time must be one of edm, trigflow, got 'edn'"),
        ({"sigma_data": "x"}, "sigma_data: expected float, got 'x'"),
        ({"net": {"_target_": "os.system", "command": "false"}}, "net._target_: os.system is no network; a model's file may name no other code"),
        ({"net": NET | {"width": {"_target_": "builtins.eval"}}}, "net.width._target_: builtins.eval is no network; a model's file may name no other code"),
        ({"net": NET | {"shape": [{"_target_": "os.getpid"}]}}, "net.shape.0._target_: os.getpid is no network; a model's file may name no other code"),
    ],
)  # fmt: skip
def test_a_record_that_is_not_right(saved, changes, expected):
    edit(saved, **changes)
    assert message(saved) == f"{saved}/model.json: {expected}"


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00"])
def test_a_file_that_is_no_record(saved, text):
    (saved / "model.json").write_text(text)
    assert message(saved).startswith(f"{saved}/model.json: is no record of a model (")
