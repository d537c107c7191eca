"""A saved denoiser comes back the same; a file that is not right is a one-line error, and no code of its own is run."""

import json
import os

import pytest
import torch
from messages import tells
from safetensors.torch import load_file
from torch import nn

from lightning_diff.artifacts import keep_levels, load_denoiser, read_record, save_denoiser
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
    with pytest.raises(UserError, match=r"model\.safetensors: .*No space left"):
        save_denoiser(saved, denoiser, NET, shape=(2,))
    assert (saved / "model.safetensors").read_bytes() == old
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


def test_missing_files(tmp_path, saved):
    assert tells(message(tmp_path / "runs"), f"... {tmp_path}/runs: ... model.json")
    (saved / "model.safetensors").unlink()
    assert message(saved).startswith(f"{saved}/model.safetensors: ")


def test_a_damaged_file_is_named(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert tells(message(saved), f"{path}: ... damaged")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"net": NET | {"width": 8}}, ("conditioning.label.weight (16, 3)", "conditioning.label.weight (8, 3)")),
        ({"net": NET | {"depth": 2}}, ("blocks.1.linear0.weight (16, 16)",)),
        ({"net": NET | {"num_classes": 0}}, ("conditioning.label.bias (16,)",)),
    ],
)
def test_weights_of_another_network(saved, changes, named):
    edit(saved, **changes)
    text = message(saved)
    assert text.startswith(f"{saved}/model.safetensors: ")
    assert all(name in text for name in named)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"format": 99}, "... format 99"),
        ({"net": NET | {"widht": 3}}, "net.widht"),
        ({"net": NET | {"depth": 0}}, "net: MLP: depth"),
        ({"net": {}}, "net:"),
        ({"time": "edn"}, "Denoiser: time"),
        ({"sigma_data": "x"}, "sigma_data"),
        ({"net": {"_target_": "os.system", "command": "false"}}, "net._target_: os.system"),
        ({"net": NET | {"width": {"_target_": "builtins.eval"}}}, "net.width._target_: builtins.eval"),
        ({"net": NET | {"shape": [{"_target_": "os.getpid"}]}}, "net.shape.0._target_: os.getpid"),
    ],
)
def test_a_record_that_is_not_right(saved, changes, key):
    edit(saved, **changes)
    assert tells(message(saved), f"{saved}/model.json: {key}")


def test_levels_are_kept_by_number_of_steps_beside_what_a_later_version_may_have_added(saved):
    edit(saved, later=[1])
    keep_levels(saved, [0.8])
    keep_levels(saved, [2.0, 0.5])
    keep_levels(saved, [], 20.0)
    assert read_record(saved).levels == {2: [0.8], 3: [2.0, 0.5]}
    assert read_record(saved).starts == {1: 20.0}
    assert json.loads((saved / "model.json").read_text())["later"] == [1]
    load_denoiser(saved)


def test_a_record_from_before_there_were_consistency_models_is_of_a_denoiser(saved):
    path = saved / "model.json"
    content = json.loads(path.read_text())
    del content["kind"], content["levels"]
    path.write_text(json.dumps(content))
    assert (read_record(saved).kind, read_record(saved).levels) == ("denoiser", {})
