"""The training module: what it draws depends on positions alone, what it learns from is whole steps in order."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.data import Stream, Toy
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import DiffusionModule
from lightning_diff.nets import MLP
from lightning_diff.noise import LogNormal, log_snr_to_sigma
from lightning_diff.objectives import denoising_loss
from lightning_diff.oracle import Gaussian, GaussianMixture


class Watching(nn.Module):
    """Weights of one; keeps what it was shown after each step."""

    shown: list

    def __init__(self):
        super().__init__()
        type(self).shown = []

    def forward(self, log_snr, loss):
        return torch.ones_like(loss)

    def update(self, log_snr, loss):
        self.shown.append((log_snr.clone(), loss.clone()))


class Listening(nn.Module):
    """Records the noise levels that it is conditioned on."""

    heard: list

    def __init__(self):
        super().__init__()
        type(self).heard = []
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x, c_noise, label=None):
        if self.training:
            self.heard.append(c_noise.clone())
        return x * self.weight


def dropped(positions: torch.Tensor, seed: int = 3, rate: float = 0.2) -> torch.Tensor:
    module = DiffusionModule(MLP((2,), 8, width=16, depth=1), num_classes=8, condition_dropout=rate)
    module.seed = seed
    batch = {"position": positions, "label": positions % 8}
    return module.prepare_batch(batch)["label"]


def test_labels_are_dropped_at_the_rate_asked_for_and_by_position():
    positions = torch.arange(20_000)
    labels = dropped(positions)
    is_dropped = labels == 8
    assert torch.equal(labels[~is_dropped], positions[~is_dropped] % 8)
    assert abs(float(is_dropped.double().mean()) - 0.2) < 3 * (0.2 * 0.8 / 20_000) ** 0.5
    shuffled = positions[torch.randperm(20_000)]
    assert torch.equal(dropped(shuffled), labels[shuffled])  # whatever the batch it comes in
    assert not torch.equal(dropped(positions, seed=4), labels)
    more = dropped(positions, rate=0.5) == 8
    assert bool(more[is_dropped].all())  # a higher rate drops these and others


def test_an_unconditional_model_is_shown_no_labels():
    module = DiffusionModule(MLP((2,), width=16, depth=1))
    assert "label" not in module.prepare_batch({"position": torch.arange(3), "label": torch.arange(3)})


@pytest.mark.parametrize(("rate", "conditional", "message"), [(0.1, "false", "no classes"), (1.0, "true", r"\[0, 1\)")])
def test_a_condition_dropout_that_means_nothing_is_refused(train, rate, conditional, message):
    with pytest.raises(UserError, match=f"bad.yaml: model: DiffusionModule: condition_dropout .*{message}"):
        train("bad", f"model.condition_dropout={rate}", f"data.conditional={conditional}")


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_learning_rate_follows_images_not_steps(train, accumulation):
    schedule = "{_target_: lightning_diff.learning_rate.Cosine, total: 128, warmup: 32}"
    options = [f"model.learning_rate={schedule}", f"trainer.accumulate_grad_batches={accumulation}"]
    rates = {}
    for batch_size in (8, 16):
        folder = train(
            f"by{batch_size}", *options, f"data.batch_size={batch_size}", f"trainer.max_steps={128 // batch_size}"
        )
        rows = [row for row in read(folder / "metrics.csv") if row["metric"] == "train/learning_rate"]
        rates[batch_size] = {int(row["images"]): float(row["value"]) for row in rows}
    assert rates[16] == {images: rates[8][images] for images in range(16, 129, 16)}
    assert rates[8][16] == pytest.approx(0.5e-3)
    assert rates[8][80] == pytest.approx(0.5e-3)
    assert rates[8][128] == pytest.approx(0, abs=1e-12)


def test_trigflow_tells_the_network_the_angle_and_edm_the_logarithm(train):
    net = "model.net={_target_: test_diffusion.Listening}"
    train("edm", net, "model.sigma_data=0.5")
    edm = torch.cat(Listening.heard)
    train("trigflow", net, "model.sigma_data=0.5", "model.time=trigflow")
    trigflow = torch.cat(Listening.heard)
    torch.testing.assert_close(trigflow, ((4 * edm).exp() / 0.5).atan())
    assert edm.min() < 0  # no angle


@pytest.mark.parametrize("time", ["edm", "trigflow"])
def test_an_exact_denoiser_reaches_the_smallest_loss_under_either_time(time, monkeypatch):
    oracle = Gaussian(torch.zeros(2), torch.tensor([0.1, 0.9]))
    module = DiffusionModule(oracle.denoiser(0.5, time).net, sigma_data=0.5, time=time)
    monkeypatch.setattr(module, "_rekey_dropout", lambda batch_idx: None)  # which asks for a Trainer
    data = Toy(batch_size=4096, n=4096)
    batch = Stream(data, seed=0).__getitems__(range(4096))
    batch["image"] = oracle.sample(4096, torch.Generator().manual_seed(0))
    out = module.training_step(batch, 0)
    mean, variance = oracle.denoising_loss(log_snr_to_sigma(out["log_snr"]), 0.5)
    error = float((out["per_sample_loss"] - mean).mean())
    assert abs(error) < 3 * float(variance.mean() / 4096) ** 0.5
    assert float(out["loss"]) == pytest.approx(float(out["per_sample_loss"].mean()))


def test_what_learns_from_losses_sees_each_step_whole_and_in_order_of_position(train):
    shown = {}
    for accumulation in (1, 4):
        train(
            f"by{accumulation}",
            "model.weighting={_target_: test_diffusion.Watching}",
            f"trainer.accumulate_grad_batches={accumulation}",
        )
        shown[accumulation] = Watching.shown
        assert len(Watching.shown) == 8
        for log_snr, loss in Watching.shown:
            assert len(log_snr) == len(loss) == 16
            assert bool((log_snr.diff() < 0).all())  # the stream's levels rise within a batch, so this is its order
    for (levels, losses), (expected_levels, expected) in zip(shown[4], shown[1], strict=True):
        assert torch.equal(levels, expected_levels)
        torch.testing.assert_close(losses, expected)


def test_a_run_with_dropout_resumes_exactly(train, state):
    options = ["model.net.dropout=0.5", "model.condition_dropout=0.3"]
    whole = state(train("whole", *options))
    train("parts", *options, "trainer.max_steps=3")
    torch.rand(100)  # the global generator is somewhere else by then
    parts = state(train("parts", *options))
    assert all(torch.equal(parts["state_dict"][name], value) for name, value in whole["state_dict"].items())
    without = state(train("without", "model.condition_dropout=0.3"))
    assert not all(torch.equal(without["state_dict"][name], value) for name, value in whole["state_dict"].items())


def test_points_of_a_plane_are_learnt(train):
    """From 1, the loss of the best Gaussian, more than half of the way to the exact denoiser's."""
    folder = train(
        "ring",
        "model.net={_target_: lightning_diff.nets.MLP, width: 64, depth: 2}",
        "model.optimizer={_target_: torch.optim.Adam, _partial_: true, lr: 5e-3}",
        "data={_target_: lightning_diff.data.Toy, density: ring, n: 4096, batch_size: 256}",
        "trainer.max_steps=200",
        "trainer.log_every_n_steps=50",
    )
    losses = [float(row["value"]) for row in read(folder / "metrics.csv") if row["metric"] == "train/loss"]
    data = Toy(batch_size=4096, n=4096)
    batch = Stream(data, seed=0).__getitems__(range(4096))
    exact = GaussianMixture(*data.mixture()[:3]).denoiser(data.sigma_data)
    best = denoising_loss(exact, batch["image"], LogNormal().icdf(batch["u"]).float(), batch["noise"]).mean()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] - best < 0.5 * (1 - best), (losses, best)


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_loss_scale_the_true_gradient_is_clipped(fused):
    """A fused optimiser takes the scale out in its own step, after clipping."""
    net = MLP((2,), width=16, depth=1)
    module = DiffusionModule(net)
    weights = list(net.parameters())
    optimizer = torch.optim.SGD(weights, lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    module.trainer = Trainer(accelerator="cpu", logger=False, plugins=MixedPrecision("16-mixed", "cpu", scaler))
    loss = sum((weight**2).sum() for weight in weights)
    norm = 2 * float(loss.detach()) ** 0.5
    scaler.scale(loss).backward()
    if not fused:
        scaler.unscale_(optimizer)  # as Lightning does, for these alone
    before = torch.cat([weight.detach().flatten() for weight in weights])
    module.configure_gradient_clipping(optimizer, 0.5)
    scaler.step(optimizer)
    moved = torch.cat([weight.detach().flatten() for weight in weights]) - before
    assert float(module.grad_norm) == pytest.approx(norm)
    assert float(moved.norm()) == pytest.approx(0.1 * 0.5, rel=1e-4)
