"""Validation: the same noise for images that are trained on and ones that are not, and a training that does not notice it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run_two
from messages import tells
from PIL import Image
from safetensors.torch import load_file

from lightning_diff.artifacts import validation
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.data import ImageSet, Toy
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import validation_loss
from lightning_diff.nets import MLP
from lightning_diff.noise import LogNormal, sigma_to_log_snr
from lightning_diff.oracle import Dataset, Gaussian

OWN = "lightning_diff.callbacks"
MEASURE = f"callbacks=[{{_target_: {OWN}.EMA}}, {{_target_: {OWN}.NoiseLevels}}, {{_target_: {OWN}.Validation, %s}}]"
STOP = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, patience: %d, min_delta: %s}"


NO_TEST = "data={_target_: lightning_diff.data.Images, path: images, batch_size: 16}"


def weights(folder):
    return load_file(folder / "model.safetensors")


def values(folder, metric):
    return {int(row["images"]): float(row["value"]) for row in read(folder / "metrics.csv") if row["metric"] == metric}


def test_a_run_with_it_ends_with_the_same_weights_as_one_without(train):
    plain = train("plain", f"callbacks=[{{_target_: {OWN}.EMA}}, {{_target_: {OWN}.NoiseLevels}}]")
    with_it = train("with", MEASURE % "every: 32, draws: 2")
    one, other = weights(plain), weights(with_it)
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [values(folder, "train/loss") for folder in (plain, with_it)]
    assert losses[0] == losses[1]


def test_it_measures_every_so_often_and_at_the_end(train):
    folder = train("run", MEASURE % "every: 48, n: 32, draws: 4")
    loss, train_loss, gap = (values(folder, f"val/{name}") for name in ("loss", "train_loss", "gap"))
    assert list(loss) == [48, 96, 128]
    assert all(gap[images] == pytest.approx(loss[images] - train_loss[images], abs=1e-6) for images in loss)
    rows = validation.read(folder)
    assert sorted({row.images for row in rows}) == [48, 96, 128]
    assert sum(row.count for row in rows) == 3 * 32 * 4
    assert all(row.loss > 0 for row in rows if row.count)


@pytest.mark.whole
def test_a_resumed_run_has_the_measurements_of_one_that_was_not_interrupted(train):
    whole = train("whole", MEASURE % "every: 32, draws: 2")
    train("resumed", MEASURE % "every: 32, draws: 2", "trainer.max_steps=5")
    resumed = train("resumed", MEASURE % "every: 32, draws: 2")
    assert values(resumed, "val/loss").keys() - {80} == values(whole, "val/loss").keys()
    assert all(values(resumed, "val/loss")[images] == loss for images, loss in values(whole, "val/loss").items())
    same = [row for row in validation.read(resumed) if row.images != 80]
    assert same == validation.read(whole)


@pytest.mark.whole
def test_two_processes_measure_what_one_does(train, tmp_path):
    one = train("one", MEASURE % "every: 64, draws: 2")
    overrides = (MEASURE % "every: 64, draws: 2", "name=two", "trainer.devices=2", "trainer.strategy=ddp")
    assert all(done.returncode == 0 for done in run_two("train", str(tmp_path / "one.yaml"), *overrides, cwd=tmp_path))
    for metric in ("val/loss", "val/train_loss"):
        for images, value in values(one, metric).items():
            assert values(Path("runs/two"), metric)[images] == pytest.approx(value, rel=1e-6)


def test_levels_are_those_of_the_law_and_even_over_log_snr():
    law = LogNormal(-1.2, 1.2)
    drawn = validation_loss.of_law(law, 50, 8, seed=0)
    u = (drawn.sigma.log() + 1.2) / 1.2
    expected = torch.special.ndtri((torch.arange(400).double() + 0.5) / 400)
    assert torch.allclose(u.sort().values, expected)
    assert torch.equal(drawn.image.bincount(), torch.full((50,), 8))
    even = sigma_to_log_snr(validation_loss.over_log_snr(-10.0, 10.0, 0.5, 50, 8, seed=0).sigma, 0.5).sort().values
    assert torch.allclose(even.diff(), torch.full((399,), 20 / 400, dtype=torch.float64))


def test_the_loss_of_the_exact_denoiser_is_its_posterior_variance():
    """For Gaussian data D is known, and so is the loss: E |F - target|^2 = sigma_data^2-normalised posterior variance."""
    mean, cov = torch.zeros(2, dtype=torch.float64), torch.diag(torch.tensor([0.25, 0.04], dtype=torch.float64))
    oracle = Gaussian(mean, cov)
    points = torch.distributions.MultivariateNormal(mean, cov).sample((4096,)).float()

    class Exact(torch.nn.Module):
        def forward(self, x_in, c_noise, label=None):
            sigma = (4 * c_noise).exp()
            norm = (sigma**2 + 0.25).sqrt()[:, None]
            x = x_in * norm
            D = oracle(x.double(), sigma.double()).to(x.dtype)
            return (D - (0.5 / norm) ** 2 * x) / (sigma[:, None] * 0.5 / norm)

    probes = validation_loss.of_law(LogNormal(-1.0, 0.5), 4096, 4, seed=0)
    loss = validation_loss.losses(
        Denoiser(Exact(), 0.5),
        ImageSet(points),
        torch.arange(4096),
        probes,
        seed=0,
        batch=4096,
        device=torch.device("cpu"),
    )
    variance = cov.diagonal()
    sigma = probes.sigma[:, None]
    posterior = (variance * sigma**2 / (variance + sigma**2)).mean(1)
    exact = posterior * (probes.sigma**2 + 0.25) / (probes.sigma * 0.5) ** 2
    error = (loss - exact).mean() / ((loss - exact).std() / len(loss) ** 0.5)
    assert abs(error) < 4


@pytest.mark.whole
def test_early_stopping_ends_a_run_for_good_and_resumes_exactly(train):
    recipe = MEASURE.replace("%s}]", "every: 16, draws: 1}, %s]") % (STOP % (2, "100.0"))
    folder = train("run", recipe)
    assert json.loads((folder / "finished.json").read_text()) == {"step": 3, "images": 48, "early": True}
    before = weights(folder)
    train("run", recipe)  # has nothing to do
    assert json.loads((folder / "finished.json").read_text())["step"] == 3
    train("killed", recipe, "trainer.max_steps=2")
    killed = train("killed", recipe)
    assert json.loads((killed / "finished.json").read_text())["step"] == 3
    assert all(torch.equal(before[name], weight) for name, weight in weights(killed).items())


def test_the_best_checkpoint_is_that_of_the_least_loss(train):
    best = "{_target_: lightning.pytorch.callbacks.ModelCheckpoint, monitor: val/loss, dirpath: best}"
    folder = train("run", MEASURE.replace("%s}]", "every: 16, draws: 2}, %s]") % best)
    losses = values(folder, "val/loss")
    (path,) = Path("best").glob("*.ckpt")
    step = torch.load(path, weights_only=True)["global_step"]
    assert 16 * step == min(losses, key=losses.get)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([MEASURE % "every: 16", NO_TEST], "...Validation ... data.hold_out"),
        ([MEASURE % "n: 100"], "...Validation ... 100 ... 32"),
        (["data.hold_out=256"], "...hold_out ... 32"),
        ([f"{NO_TEST[:-1]}, hold_out: 8}}"], "...hold_out ... 8 ... 8"),
        ([f"callbacks=[{STOP % (2, '0.0')}]"], "...EarlyStopping ... lightning_diff.callbacks.Validation"),
        (
            [MEASURE.replace("%s}]", "every: 16}, %s]") % (STOP % (2, "0.0")).replace("val/loss", "val/los")],
            "...monitor ... 'val/los' ... val/loss",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(train, overrides, told):
    Path("images").mkdir()
    for i in range(8):
        Image.fromarray(np.full((4, 4), 30 * i, np.uint8)).save(f"images/{i}.png")
    with pytest.raises(UserError) as error:
        train("run", *overrides)
    assert tells(str(error.value), told)


def test_a_network_that_remembers_shows_the_gap_at_low_noise():
    """Trained on few points until it knows them, the gap is largest where there is little noise."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(512, 2, generator=generator) / 2

    class Remembers(torch.nn.Module):
        def forward(self, x_in, c_noise, label=None):
            sigma = (4 * c_noise).exp()
            norm = (sigma**2 + 0.25).sqrt()[:, None]
            x = (x_in * norm).double()
            D = Dataset(points[:16].double())(x, sigma.double()).to(x_in.dtype)
            return (D - (0.5 / norm) ** 2 * x_in * norm) / (sigma[:, None] * 0.5 / norm)

    probes = validation_loss.over_log_snr(-6.0, 6.0, 0.5, 16, 32, seed=0)
    sets = [ImageSet(points[:16]), ImageSet(points[16:32])]
    known, other = (
        validation_loss.losses(
            Denoiser(Remembers(), 0.5), each, torch.arange(16), probes, seed=0, batch=512, device=torch.device("cpu")
        )
        for each in sets
    )
    clean = sigma_to_log_snr(probes.sigma, 0.5) > 2
    assert (other - known)[clean].mean() > 10 * (other - known)[~clean].mean().abs()


def test_nothing_of_the_network_changes():
    net = MLP((2,), width=8, depth=1)
    denoiser, before = Denoiser(net, 0.5).train(), {name: each.clone() for name, each in net.state_dict().items()}
    examples = Toy(n=64, batch_size=1).train
    state = torch.get_rng_state()
    probes = validation_loss.of_law(LogNormal(), 8, 2, seed=1)
    validation_loss.losses(denoiser, examples, torch.arange(8), probes, seed=1, batch=5, device=torch.device("cpu"))
    assert denoiser.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], each) for name, each in net.state_dict().items())
