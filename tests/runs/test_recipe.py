"""Recipes compose, interpolate, check and come back from the disk the same; a mistake is one line with file and key."""
# ruff: noqa: E501 (messages stand on one line)

import sys
from pathlib import Path

import pytest
import torch
from messages import tells

from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe

BASE = """
name: base
seed: 7
model:
  _target_: parts_of_test.Model
  net: {_target_: parts_of_test.Net, channels: 4}
  law: {_target_: lightning_diff.noise.LogNormal, mean: -1.0}
  optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 1e-3}
data: {_target_: lightning_diff.data.Digits, batch_size: 32}
callbacks:
  - {_target_: lightning.pytorch.callbacks.Timer}
  - {_target_: lightning.pytorch.callbacks.LearningRateMonitor, logging_interval: step}
trainer: {max_steps: 10}
"""
PARTS = """
from collections.abc import Callable, Iterable, Sequence

import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_diff.noise import LogNormal, NoiseLaw


class Net(nn.Module):
    def __init__(self, shape: Sequence[int], num_classes: int = 0, channels: int = 8):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, *shape))
        self.num_classes = num_classes


class Model(LightningModule):
    def __init__(
        self,
        net: nn.Module,
        *,
        law: NoiseLaw = LogNormal(),
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        sigma_data: float = 0.5,
    ):
        super().__init__()
        self.net, self.law, self.make_optimizer, self.sigma_data = net, law, optimizer, sigma_data
"""
FACTS = {"shape": (1, 8, 8), "num_classes": 10, "sigma_data": 0.752, "augment_dim": 0}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of the user's with a recipe and its own classes, and the working folder."""
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "parts_of_test.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    yield tmp_path
    sys.modules.pop("parts_of_test", None)


def write(folder: Path, text: str, name: str = "child.yaml") -> str:
    (folder / name).write_text(text)
    return name


def message(*arguments, function=recipe.compose) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults_are_filled_in_and_the_name_is_the_files(folder):
    write(folder, "model: {a: 1}\ndata: {b: 2}\n", "tiny.yaml")
    assert recipe.compose("tiny.yaml") == {
        "name": "tiny",
        "seed": 0,
        "runs_dir": "runs",
        "resume": "auto",
        "model": {"a": 1},
        "data": {"b": 2},
        "callbacks": [],
        "trainer": {},
    }


def test_overrides_are_yaml_and_the_later_one_wins(folder):
    made = recipe.compose(
        "base.yaml",
        [
            "seed=1",
            "seed=2",
            "model.optimizer.lr=3e-4",
            "model.net={channels: 16}",
            "callbacks.0.duration={hours: 1}",
            "callbacks.2={_target_: a.B}",
            "trainer.devices=[0, 1]",
            "trainer.profiler=null",
            "name='007'",
            "model.law.std=${seed}",
        ],
    )
    assert made["seed"] == 2
    assert made["model"]["optimizer"]["lr"] == 3e-4
    assert made["model"]["net"] == {"_target_": "parts_of_test.Net", "channels": 16}
    assert made["callbacks"][0] == {"_target_": "lightning.pytorch.callbacks.Timer", "duration": {"hours": 1}}
    assert made["callbacks"][2] == {"_target_": "a.B"}
    assert made["trainer"] == {"max_steps": 10, "devices": [0, 1], "profiler": None}
    assert made["name"] == "007"
    assert made["model"]["law"]["std"] == 2


def test_a_changed_target_drops_the_old_targets_keys_in_any_order(folder):
    for overrides in (
        ["model.law._target_=lightning_diff.noise.LogUniform", "model.law.low=0.1"],
        ["model.law.low=0.1", "model.law._target_=lightning_diff.noise.LogUniform"],
        ["model.law={_target_: lightning_diff.noise.LogUniform, low: 0.1}"],
    ):
        law = recipe.compose("base.yaml", overrides)["model"]["law"]
        assert law == {"_target_": "lightning_diff.noise.LogUniform", "low": 0.1}


def test_extends_merges_by_key_replaces_lists_and_does_not_inherit_the_name(folder):
    (folder / "more").mkdir()
    child = "extends: ../base.yaml\nmodel: {law: {std: 1.5}}\ncallbacks: []\ntrainer: {max_steps: 20}\n"
    made = recipe.compose(f"more/{Path(write(folder, child, 'more/child.yaml')).name}", ["trainer.max_steps=30"])
    assert "extends" not in made
    assert (made["name"], made["seed"], made["callbacks"], made["trainer"]["max_steps"]) == ("child", 7, [], 30)
    assert made["model"]["law"] == {"_target_": "lightning_diff.noise.LogNormal", "mean": -1.0, "std": 1.5}


def test_extends_goes_one_level(folder):
    write(folder, "extends: base.yaml\n", "child.yaml")
    write(folder, "extends: child.yaml\n", "grandchild.yaml")
    assert tells(message("grandchild.yaml"), "grandchild.yaml: extends: child.yaml ... base.yaml")


def test_interpolation_reads_the_composed_recipe(folder, monkeypatch):
    monkeypatch.setenv("WHERE", "there")
    write(
        folder,
        "extends: base.yaml\nruns_dir: ${oc.env:WHERE}/${name}\ntrainer: {log_every_n_steps: '${data.batch_size}'}\n",
    )
    made = recipe.compose("child.yaml", ["data.batch_size=64"])
    assert (made["runs_dir"], made["trainer"]["log_every_n_steps"]) == ("there/child", 64)
    assert all(type(value) in (dict, list, str, int) for value in made.values())  # nothing of OmegaConf's is left


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "digits_tiny.yaml").write_text(BASE.replace("name: base\n", ""))
    monkeypatch.setattr(
        "lightning_diff.runs.recipe.files.files", lambda package: {"lightning_diff.recipes": shelf}[package]
    )


def test_a_packaged_recipe_is_found_by_name(folder, packaged):
    assert recipe.compose("digits_tiny")["name"] == "digits_tiny"
    assert recipe.compose("digits_tiny.yaml")["seed"] == 7
    write(folder, "extends: digits_tiny\nseed: 8\n")
    assert recipe.compose("child.yaml")["data"]["batch_size"] == 32
    write(folder, "seed: 9\n", "digits_tiny.yaml")
    assert recipe.compose("digits_tiny.yaml")["seed"] == 9  # a file that is there comes first


def test_a_recipe_that_is_not_there(folder, packaged):
    assert tells(message("digits_tniy"), "digits_tniy: ... digits_tiny")
    assert tells(message("zzz.yaml"), "zzz.yaml: ... recipe ... digits_tiny")
    assert tells(message("."), ".: ... folder")
    write(folder, "extends: zzz\n")
    assert tells(message("child.yaml"), "child.yaml: extends: zzz: ... recipe ... digits_tiny")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nmodel: b: c\n", "child.yaml:2: not YAML"),
        ("seed: 1\nseed: 2\n", "child.yaml:2: ... duplicate key seed"),
        ("- a\n- b\n", "child.yaml: ... mapping ... list"),
        ("just words\n", f"child.yaml: just words: ... recipe ... {', '.join(recipe.KEYS)}"),
        ("3\n", "child.yaml: ... mapping"),
        ("modle: 3\n", "child.yaml: modle: ... recipe ... model"),
        ("3: 3\n", f"child.yaml: 3: ... recipe ... {', '.join(recipe.KEYS)}"),
        ("seed: ${sede}\n", "child.yaml: seed: ... 'sede'"),
        ("data:\n  path: ???\n", "child.yaml: data.path: ... (???) ... data.path="),
    ],
)
def test_a_file_that_is_no_recipe(folder, text, expected):
    assert tells(message(write(folder, text)), expected)


def test_a_file_that_is_not_text(folder):
    (folder / "child.yaml").write_bytes(b"\xff\xfe\x00")
    assert message("child.yaml").startswith("child.yaml: not YAML: ")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("modle.net=3", "base.yaml: modle: ... recipe ... model"),
        ("extends=other", "base.yaml: extends: ... file ... command line"),
        ("callbacks.7.x=3", "command line: callbacks.7.x: ... 2 entries ... 7"),
        ("callbacks.EMA.x=3", "command line: callbacks.EMA.x: ... 2 entries ... EMA"),
        ("seed.x=3", "command line: seed.x: ... 7 ... keys"),
        ("seed={", "command line: seed={: ... YAML"),
        ("seed", "command line: seed: ... dotted.key=value"),
        ("data.path=caf\udce9", "command line: data.path=caf\\xe9: ... UTF-8 ... link"),
    ],
)
def test_an_override_that_leads_nowhere(folder, override, expected):
    assert tells(message("base.yaml", [override]), expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.net.chanels=3", "model.net.chanels: ... parts_of_test.Net ... channels"),
        ("model.nett.channels=3", "model.nett: ... parts_of_test.Model ... net"),
        ("model.net.channels=wide", "model.net.channels: ... int ... 'wide'"),
        ("model.net._target_=parts_of_test.Nett", "model.net._target_: ... parts_of_test.Nett ... parts_of_test.Net"),
        ("model._target_=parts_of_test.Net", "model: ... LightningModule ... parts_of_test.Net"),
        ("model=null", "model: missing"),
        ("data={_target_: lightning_diff.data.PhotoPatches}", "data.batch_size: missing ... lightning_diff.data.PhotoPatches"),
        ("data.size=9", "data.size: ... 8, 16 ... 9"),
        ("data._target_=parts_of_test.Net", "data: ... Data ... parts_of_test.Net"),
        ("callbacks=3", "callbacks: ... a list of Callback ... 3"),
        ("callbacks=[{x: 3}]", "callbacks.0: ... Callback ... _target_"),
        ("callbacks.1.log_momentun=true", "callbacks.1.log_momentun: ... lightning.pytorch.callbacks.LearningRateMonitor ... log_momentum"),
        ("trainer.max_step=3", "trainer.max_step: ... lightning.Trainer ... max_steps"),
        ("trainer.max_steps=many", "trainer.max_steps: ... int ... 'many'"),
        ("trainer={max_steps: -1}", "trainer.max_steps: ... missing"),
        ("trainer.max_epochs=3", "trainer.max_epochs: ... trainer.max_steps"),
        ("trainer.logger=tensorbord", "trainer.logger: ... 'tensorbord' ... tensorboard, wandb ... tensorboard"),
        ("trainer.logger=[wandbb]", "trainer.logger.0: ... 'wandbb' ... tensorboard, wandb ... wandb"),
        ("trainer.precision=bf17-mixed", "trainer.precision: ... 'bf17-mixed' ... 64, 32, 16 ... mean bf16-mixed"),
        ("seed=-1", "seed: ... 0 ... -1"),
        ("seed=x", "seed: ... int ... 'x'"),
        ("name=a/b", "name: ... 'a/b' ... folder"),
    ],
)  # fmt: skip
def test_a_mistake_anywhere_is_found_before_anything_is_built(folder, override, expected):
    assert tells(message("base.yaml", [override], function=recipe.load), f"base.yaml: {expected}")


def test_a_logger_that_is_not_installed(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = message("base.yaml", ["trainer.logger=wandb"], function=recipe.load)
    assert tells(text, "base.yaml: trainer.logger: wandb ... pip install 'lightning_diff[wandb]'")


def test_a_constructors_complaint_names_the_key(folder):
    settings = recipe.load("base.yaml", ["model.law.std=-1"])
    with pytest.raises(UserError) as error:
        recipe.build(settings["model"]["law"], "model.law", "base.yaml")
    assert tells(str(error.value), "base.yaml: model.law: LogNormal: ... std ... -1.0")


def test_facts_reach_every_node_that_takes_them_and_never_what_the_recipe_says(folder):
    settings = recipe.load("base.yaml", ["model.net.num_classes=3"])
    filled = recipe.fill_facts(settings, FACTS)
    assert filled["model"]["net"] == settings["model"]["net"] | {"shape": [1, 8, 8]}
    assert filled["model"]["sigma_data"] == 0.752
    assert "augment_dim" not in str(filled)
    assert "shape" not in settings["model"]["net"]  # a copy


def test_the_saved_recipe_is_the_same_recipe_and_builds_the_same_model(folder):
    settings = recipe.fill_facts(recipe.load("base.yaml", ["model.law.std=1e-3"]), FACTS)
    recipe.save(settings, folder / "runs" / "base" / "recipe.yaml")
    again = recipe.load(folder / "runs" / "base" / "recipe.yaml")
    assert again == settings == recipe.read_yaml(folder / "runs" / "base" / "recipe.yaml")
    models = []
    for made in (settings, again):
        torch.manual_seed(0)
        models.append(recipe.build(made["model"], "model"))
    assert torch.equal(models[0].net.weight, models[1].net.weight)
    assert models[1].net.weight.shape == (4, 1, 8, 8)
    assert (models[1].net.num_classes, models[1].sigma_data, models[1].law.std) == (10, 0.752, 1e-3)


def test_changes_are_named_by_their_keys():
    before = {"net": {"_target_": "A", "a": 1, "b": [1, {"c": 2}]}}
    for after, expected in [
        ({}, []),
        ({"a": 2}, ["model.net.a was 1, is 2"]),
        ({"a": 2, "b": [0, {"c": 3}]}, ["model.net.a was 1, is 2", "model.net.b.0 was 1, is 0", "model.net.b.1.c was 2, is 3"]),
        ({"b": [1]}, ["model.net.b was [1, {'c': 2}], is [1]"]),
        ({"d": 0}, ["model.net.d was left out, is 0"]),
        ({"_target_": "B"}, ["model.net was 'A', is 'B'"]),
    ]:  # fmt: skip
        found = recipe.changes(before, {"net": before["net"] | after}, "model")
        assert [str(change) for change in found] == expected
    (left_out,) = recipe.changes({"a": 1, "b": 2}, {"a": 1})
    assert str(left_out) == "b was 2, is left out"


def test_what_the_command_line_takes_for_an_override():
    assert all(map(recipe.is_override, ("seed=1", "model.net.channels=3", "callbacks.0.every=5", "name=")))
    assert not any(map(recipe.is_override, ("digits_edm", "a/b=c.yaml", "./x=y.yaml", "=3")))


def test_a_recipe_names_the_generator_of_its_noise(train, state):
    one, two = (train(f"by_{number}", f"generator={number}") for number in (1, 2))
    left_out = train("by_none")
    weights = [state(folder)["state_dict"]["denoiser.net.output.weight"] for folder in (one, two, left_out)]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert [recipe.read_yaml(folder / "recipe.yaml")["generator"] for folder in (one, two, left_out)] == [1, 2, 2]
    with pytest.raises(UserError, match="generator"):
        train("by_two", "generator=1", "name=by_2", "trainer.max_steps=9")
    with pytest.raises(UserError, match="generator"):
        train("by_three", "generator=3")


def test_a_resumed_run_stays_on_its_generator(train, state):
    dropout = ["model.net.dropout=0.1", "model.condition_dropout=0.1"]
    whole = train("whole", "generator=1", *dropout)
    train("parts", "generator=1", *dropout, "trainer.max_steps=3")
    parts = train("parts", *dropout)  # names none
    assert recipe.read_yaml(parts / "recipe.yaml")["generator"] == 1
    assert (state(parts)["recipe"]["generator"], state(parts)["TrainingData"]["generator"]) == (1, 1)
    for name, value in state(whole)["state_dict"].items():
        assert torch.equal(value, state(parts)["state_dict"][name]), name


def test_a_run_of_the_second_generator_stopped_and_resumed_ends_in_the_same_weights(train, state):
    dropout = ["model.net.dropout=0.1", "model.condition_dropout=0.1"]
    whole = train("whole", *dropout)
    train("parts", *dropout, "trainer.max_steps=3")
    parts = train("parts", *dropout)
    for name, value in state(whole)["state_dict"].items():
        assert torch.equal(value, state(parts)["state_dict"][name]), name


def test_an_unknown_option_of_the_trainer_is_answered_with_those_that_may_be_set(folder):
    said = message("base.yaml", ["trainer.zzz=1"], function=recipe.load)
    assert tells(said, "base.yaml: trainer.zzz: ... it takes accelerator, ... max_steps ...")
    for name in ("max_epochs", "fast_dev_run", "callbacks", "val_check_interval"):
        assert f" {name}," not in said


def test_a_networks_name_alone_is_answered_with_its_node(folder):
    said = message("base.yaml", ["model.net=DiT"], function=recipe.load)
    assert tells(said, "base.yaml: model.net: ... DiT ... _target_: lightning_diff.nets.DiT")
