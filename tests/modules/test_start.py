"""Training that starts from a model: its weights at step 0, everything else new; a resumed run does not look at it again."""

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from messages import tells
from model_files import same, weights
from on_two import trains_as_one_from

from lightning_diff.artifacts import load_denoiser, read_record
from lightning_diff.cli import main
from lightning_diff.data import Toy
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import DiffusionModule, TrainingData
from lightning_diff.nets.lora import LoRA

STILL = "model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.0}"  # what it learns is nothing
FAST = "model.optimizer={_target_: torch.optim.Adam, _partial_: true, lr: 0.05}"
MLP = "model.net={_target_: lightning_diff.nets.MLP, width: 16, depth: 1}"
OTHER = "data={_target_: lightning_diff.data.Toy, n: 128, conditional: false, batch_size: 16}"  # no classes
UNLABELLED = "model.fresh=[conditioning.label.*]"
ADAPTERS = "model.lora={_target_: lightning_diff.nets.lora.LoRA, rank: 2, alpha: 4.0}"


@pytest.fixture(scope="module")
def first(train_here, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("first"))
        return train_here("first").absolute()


@pytest.fixture
def started(train, first):
    """A model to start from, trained by seed 3."""
    return Path(shutil.copytree(first, "runs/first"))


@pytest.mark.parametrize("start", ["runs/first", "first", "runs/first/model.safetensors"])
def test_step_0_has_the_weights_of_the_start(train, started, state, start):
    folder = train("second", f"model.start={start}", "seed=9", STILL, "model.net=null", "trainer.max_steps=1")
    assert same(weights(folder), weights(started))
    assert state(folder)["global_step"] == 1
    assert state(folder)["images_seen"] == 16


def test_the_scale_stays_that_of_the_weights_and_the_optimiser_is_new(train, started, state, capsys):
    capsys.readouterr()
    folder = train("second", "model.start=first", "data.n=64", "data.flip=false", FAST)
    said = capsys.readouterr().out
    assert read_record(folder).sigma_data == read_record(started).sigma_data
    assert "model.start: the weights of first after 128 images" in said
    moments = state(folder)["optimizer_states"][0]["state"][0]
    assert float(moments["step"]) == 8


def test_another_scale_of_the_data_is_said(train, started, capsys):
    capsys.readouterr()
    train("second", "model.start=first", "model.net=null", "data.density=moons", UNLABELLED, FAST)
    own, data = read_record(started).sigma_data, Toy(batch_size=16, n=256, density="moons").sigma_data
    assert f"sigma_data stays {own:g}" in (said := capsys.readouterr().out)
    assert f"{data:g}" in said


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["model.sigma_data=0.1"], "model: sigma_data ... 0.1 ... runs/first"),
        (
            ["model.time=trigflow"],
            "model: ... trigflow ... runs/first ... edm; leave out time, or ... model.retime=true ...",
        ),
        (["model.retime=true"], "model.retime: runs/first ... this time, edm; ... model.time ..."),
        (["model.start=null", MLP, "model.retime=true"], "model: DiffusionModule: retime ... start and time"),
        (
            ["model.time=trigflow", "model.retime=true", "model.sigma_data=9"],
            "model: sigma_data ... 9 ... runs/first ...",
        ),
        (
            ["model.net={width: 32}"],
            "model.start: runs/first: ... another network: ... of ... differ: ... (32, ... more",
        ),
        (
            [OTHER],
            "model.start: runs/first: ... 2 of 16 differ: the file has conditioning.label.weight (16, 8), the network none; ... "
            "model.fresh='[conditioning.label.bias, conditioning.label.weight]'",
        ),
        (["model.fresh=[nosuch.*]"], "model.fresh: ... nosuch.*"),
        (["model.start=runs/frist"], "model.start: runs/frist: no such model"),
        (["model.start=null", MLP, ADAPTERS], "model: DiffusionModule: lora ... start"),
        (["model.start=null", MLP, UNLABELLED], "model: DiffusionModule: fresh ... start"),
        (["model.start=null", "model.net=null"], "model.net: ... Module ... null ... model.start"),
        (["model.start=null", "model.net={width: 8}"], "model.net: ... _target_ ... model.start"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence_before_the_folder_is_made(train, started, overrides, facts):
    base = ["model.start=runs/first", "model.net=null"]
    with pytest.raises(UserError) as error:
        train("second", *base, *overrides)
    message = str(error.value)
    assert tells(message, f"... {facts}")
    assert "\n" not in message
    assert not Path("runs/second").exists()


def test_other_classes_start_anew_where_that_is_asked_for(train, started, capsys):
    capsys.readouterr()
    folder = train("second", "model.start=first", "model.net=null", OTHER, UNLABELLED, STILL)
    first, second = weights(started), weights(folder)
    gone = first.keys() - second.keys()
    assert gone == {"conditioning.label.weight", "conditioning.label.bias"}
    assert same(second, {name: first[name] for name in second})
    assert "conditioning.label.weight" in capsys.readouterr().out


def test_a_resumed_run_does_not_look_at_its_start_again(train, started, state):
    whole = train("whole", "model.start=runs/first", "model.net=null", FAST)
    overrides = ["model.start=runs/first", "model.net=null", FAST]
    train("cut", *overrides, "trainer.max_steps=4")
    shutil.rmtree(started)
    cut = train("cut", *overrides)
    assert same(weights(cut), weights(whole))
    assert main(["resume", "cut", "trainer.max_steps=9"]) == 0
    assert state(cut)["global_step"] == 9


def test_another_time_is_learned_where_that_is_asked_for(train, started, state, capsys):
    capsys.readouterr()
    words = ["model.start=first", "model.net=null", "model.retime=true", "model.time=flow", "trainer.max_steps=1"]
    folder = train("second", *words, STILL)
    assert same(weights(folder), weights(started))
    assert (read_record(folder).time, read_record(folder).prediction) == ("flow", "edm")
    assert "model.retime: the time is flow, and was edm there" in capsys.readouterr().out
    x, sigma = torch.randn(3, 2), torch.tensor([0.1, 1.0, 10.0])
    old, new = load_denoiser(started), load_denoiser(folder)
    told = old.net(x, sigma / (1 + sigma), torch.tensor([8, 8, 8]))
    assert torch.equal(told, new.net(x, new.clock(sigma), torch.tensor([8, 8, 8])))
    assert not torch.equal(old(x, sigma), new(x, sigma))
    train("second", *words, STILL, "trainer.max_steps=2")
    assert state(folder)["global_step"] == 2


def test_adapters_are_trained_alone_and_leave_as_plain_weights(train, started, state):
    folder = train("second", "model.start=first", "model.net=null", ADAPTERS, FAST)
    stored = state(folder)["state_dict"]
    frozen = {name: value for name, value in stored.items() if name.endswith(".original")}
    first = weights(started)
    assert frozen
    for name, value in frozen.items():
        plain = name.removeprefix("denoiser.net.").replace(".parametrizations.weight.original", ".weight")
        assert torch.equal(value, first[plain])
    assert weights(folder).keys() == first.keys()
    assert not same(weights(folder), first)
    before = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert main(["export", "second"]) == 0
    assert (folder / "model.safetensors").read_bytes() == before
    load_denoiser(folder)


def test_what_is_fresh_is_trained_whole_beside_adapters(train, started, state):
    anew = ["model.fresh=[output.*, conditioning.label.*]", ADAPTERS, FAST]
    folder = train("second", "model.start=first", "model.net=null", *anew)
    assert "denoiser.net.output.weight" in state(folder)["state_dict"]  # without an adapter
    after = weights(folder)
    assert not torch.equal(after["output.weight"], torch.zeros_like(after["output.weight"]))
    assert torch.equal(after["output.bias"] != 0, torch.ones(2, dtype=torch.bool))


def test_a_trainer_of_ones_own_starts_from_the_weights_too(started, tmp_path):
    data = Toy(batch_size=16, n=64, conditional=True)
    module = DiffusionModule(start="first", optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    assert module.num_classes == 8
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": -1}
    Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, **options).fit(module, TrainingData(data, 0))
    assert same(module.denoiser.net.state_dict(), weights(started))
    adapted = DiffusionModule(start="first", lora=LoRA(rank=1))
    assert any("parametrizations" in name for name in adapted.denoiser.net.state_dict())


@pytest.mark.whole
def test_two_processes_and_shards_start_with_the_weights_of_one(train, started):
    """The weights of a start are those of the model on every process, whole or in shards."""
    trains_as_one_from("first", train, FAST, "trainer.max_steps=2")
