"""Every packaged recipe trains on the pretend device, and what comes after a training works there: see `pretend_device`."""

import json

import numpy as np
import pytest
import test_every_recipe as small
import torch
from pretend_device import NAME
from pretend_lightning import CHOSEN, pretend_trainer

from lightning_diff.artifacts import load_denoiser
from lightning_diff.cli import app as cli
from lightning_diff.metrics import classifier
from lightning_diff.runs import recipe
from lightning_diff.schedules import stick_breaking

pytestmark = pytest.mark.whole

ON_DEVICE = [*CHOSEN, "trainer.max_steps=2", "trainer.log_every_n_steps=1"]
NARROW = ["model.net.channel_mult=[1]"]  # what others start from


train = classifier.train


def briefly(net, images, steps, seed):
    with torch.autograd.set_multithreading_enabled(False):  # which leaving inference mode has switched on
        train(net, images, 3, seed)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures, and the small recipes with everything that watches them, on the device; each trained once, after its start."""
    folder = tmp_path_factory.mktemp("on_device")
    small.draw_pictures(folder)
    measured_levels = stick_breaking.measured_levels
    forms = {
        name: (start, [*words, *(NARROW if start is None and "imagenet" not in name else [])])
        for name, (start, words) in small.SMALL.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "ON_CPU", ON_DEVICE)
        patch.setattr(small, "SMALL", forms)
        patch.setattr(stick_breaking, "measured_levels", lambda *ends: measured_levels(*ends)[::16].clone())
        patch.setenv("LIGHTNING_DIFF_CACHE", str(folder / "cache"))  # for feature networks of a few steps
        patch.setattr(classifier, "train", briefly)
        yield folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    with pretend_trainer() as waits:
        yield waits


# The others differ from these in numbers, and are run by `-m slow`.
IN_EVERY_TEST = (
    "digits_edm",
    "digits_scd",
    "digits_art",
    "digits_steps",
    "digits_reward",
    "imagenet64_dit_1b",
    "imagenet64_scd",
)


@pytest.mark.parametrize(
    "name", [name if name in IN_EVERY_TEST else pytest.param(name, marks=pytest.mark.slow) for name in small.PACKAGED]
)
def test_every_packaged_recipe_trains_on_a_device(here, name):
    folder = small.trained(name)
    assert json.loads((folder / "finished.json").read_text())["step"] == 2
    assert np.isfinite(small.losses(folder)).all()
    if recipe.compose(name)["model"]["_target_"] != "lightning_diff.ScheduleModule":
        assert load_denoiser(folder).to(NAME).net is not None


@pytest.mark.parametrize(
    "command",
    [
        "sample digits_edm --n 4 --steps 3",
        "sample digits_scd --n 4 --steps 2",
        "sample digits_edm --n 4 --schedule digits_steps",
        "sample digits_edm --n 4 --schedule runs/digits_art/schedule.json",
        "evaluate digits_edm --n 100 --steps 2",
        "evaluate digits_scd --n 100 --steps 2",
        "evaluate digits_edm --n 100 --schedule digits_steps",
    ],
)
def test_every_command_that_computes_takes_the_device(here, command, capsys):
    for name in ("digits_edm", "digits_scd", "digits_steps", "digits_art"):
        small.trained(name)
    assert cli.main([*command.split(), "--device", NAME]) == 0, capsys.readouterr().err


def test_a_run_of_a_device_is_exported_without_one(here):
    small.trained("digits_reward")
    assert cli.main(["export", "digits_reward"]) == 0
