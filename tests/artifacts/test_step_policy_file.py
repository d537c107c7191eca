"""Policies as files: the same policy back, bit for bit, with its origin; damage of any kind is a one-line error."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lightning_diff.artifacts.step_policy import (
    HEADER,
    LearnedPolicy,
    holds_step_policy,
    load_step_policy,
    save_step_policy,
)
from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError
from lightning_diff.oracle import Gaussian
from lightning_diff.schedules import StepPolicy

ARGUMENTS = {"gamma": 0.9, "max_steps": 7, "sigma_max": 20.0, "solver": "heun", "width": 8, "start": 0.3}


def learned():
    policy = StepPolicy(lambda images, label: images[:, 0].exp(), **ARGUMENTS)
    torch.nn.init.normal_(policy.net[-1].weight)
    policy.updates.fill_(12)
    policy.unit.fill_(1 / 3)
    return LearnedPolicy(policy, {"seed": 1, "trajectories": 640, "reward": "brightness"}, "abc", {"calls": 5.0})


@pytest.fixture
def path(tmp_path):
    return save_step_policy(tmp_path, learned())


def test_it_comes_back_bit_for_bit_and_says_where_it_is_from(path):
    before = learned()
    save_step_policy(path, before)
    random = torch.get_rng_state()
    found = load_step_policy(path.parent)
    assert torch.equal(torch.get_rng_state(), random)
    assert (found.protocol, found.model, found.costs) == (before.protocol, before.model, before.costs)
    assert found.policy.arguments == before.policy.arguments
    assert found.policy.arguments.items() >= ARGUMENTS.items()
    state, expected = found.policy.state_dict(), before.policy.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) and state[name].dtype == value.dtype for name, value in expected.items())
    model = Gaussian(torch.zeros(3), 0.5)
    noise = rng.normal(0, "noise", range(5), (3,))
    one, other = (
        policy.sample(lambda x, sigma, label: model(x, sigma), noise) for policy in (before.policy, found.policy)
    )
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.levels, other.levels)


def test_a_file_a_folder_and_what_is_none(path, tmp_path):
    assert holds_step_policy(path)
    assert holds_step_policy(tmp_path)
    assert not holds_step_policy(tmp_path / "schedule.json")
    with pytest.raises(UserError, match="elsewhere"):
        load_step_policy(tmp_path / "elsewhere")


def rewritten(path, change):
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()[HEADER])
    tensors = load_file(path)
    change(record, tensors)
    save_file(tensors, path, metadata={HEADER: json.dumps(record)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, t: r.pop("arguments"), "arguments"),
        (lambda r, t: r.update(format=99), "format 99"),
        (lambda r, t: r["arguments"].update(gamma="much"), r"arguments\.gamma"),
        (lambda r, t: r["arguments"].update(gamma=2.0), r"gamma in \(0, 1\]"),
        (lambda r, t: r["arguments"].pop("solver"), "arguments"),
        (lambda r, t: r["arguments"].update(width=9), r"net\.0\.weight"),
        (lambda r, t: t["net.0.bias"].add_(1e-6), "damaged"),
        (lambda r, t: t.pop("unit"), "unit"),
    ],
)
def test_a_wrong_file_is_named(path, change, message):
    rewritten(path, change)
    with pytest.raises(UserError, match=message) as error:
        load_step_policy(path)
    assert str(path) in str(error.value)


def test_a_file_cut_short_weights_alone_and_a_folder_that_cannot_be_written(path, tmp_path):
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"step_policy\.safetensors"):
            load_step_policy(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"step_policy\.safetensors"):
        load_step_policy(path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/under"):
        save_step_policy(tmp_path / "file" / "under", learned())


def test_one_of_version_0_1_with_the_names_of_then_loads(path):
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()[HEADER])
    record["format"] = 1
    record["arguments"]["tries"] = record["arguments"].pop("group_size")
    save_file(load_file(path), path, metadata={HEADER: json.dumps(record)})
    assert load_step_policy(path).policy.arguments == learned().policy.arguments
