"""What the training module minimises: importance (weight loss + penalty), reporting the loss without weights."""

import pytest
import torch
from safetensors.torch import load_file

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.data import Stream, Toy
from lightning_diff.modules import DiffusionModule
from lightning_diff.nets import MLP
from lightning_diff.noise import AdaptiveNoise, LogNormal, log_snr_to_sigma, sigma_to_log_snr, stratified
from lightning_diff.weighting import LearnedVariance, MinSNR, Uniform


def step(monkeypatch, **parts):
    module = DiffusionModule(MLP((2,), width=16, depth=1), **parts)
    monkeypatch.setattr(module, "_rekey_dropout", lambda batch_idx: None)  # which asks for a Trainer
    return module, module.training_step(Stream(Toy(batch_size=64, n=64), seed=0).__getitems__(range(64)), 0)


def adapted():
    law = AdaptiveNoise(LogNormal(), warmup=0, refresh=1)
    level = sigma_to_log_snr(LogNormal().icdf(stratified(1000)))
    law.update(level, (0.3 * level).exp(), torch.ones_like(level))
    return law


@pytest.mark.parametrize("weighting", [Uniform(), MinSNR(), LearnedVariance(), LearnedVariance(outer=MinSNR())])
@pytest.mark.parametrize("make_law", [LogNormal, adapted])
def test_the_objective_is_importance_times_weighted_loss_and_penalty(monkeypatch, weighting, make_law):
    law = make_law()
    _, out = step(monkeypatch, weighting=weighting, noise=law)
    level, loss = out["log_snr"], out["per_sample_loss"]
    importance = law.importance(log_snr_to_sigma(level)) if make_law is adapted else torch.ones(64)
    assert float(importance.std()) > 0.1 or make_law is LogNormal
    outer = MinSNR()(level, loss) if isinstance(getattr(weighting, "outer", weighting), MinSNR) else torch.ones(64)
    u = weighting.u(level) if isinstance(weighting, LearnedVariance) else torch.zeros(64)
    expected = (importance * outer * (loss / u.exp() + u)).mean()
    torch.testing.assert_close(out["loss"], expected)
    torch.testing.assert_close(out["weight"], importance * outer / u.exp().detach())


def test_a_learned_variance_trains_under_the_same_optimiser(monkeypatch):
    weighting = LearnedVariance(channels=8)
    module, out = step(monkeypatch, weighting=weighting)
    optimizer = module.configure_optimizers()
    optimised = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert id(weighting.weight) in optimised
    out["loss"].backward()
    assert float(weighting.weight.grad.norm()) > 0
    assert all(parameter.grad is not None for parameter in module.denoiser.parameters())


def test_it_is_saved_with_the_run_and_in_no_average_or_model(train, state):
    learned = "model.weighting={_target_: lightning_diff.weighting.LearnedVariance, channels: 8}"
    folder = train("learned", learned, "callbacks=[{_target_: lightning_diff.callbacks.EMA}]")
    checkpoint = state(folder)
    assert checkpoint["state_dict"]["weighting.weight"].shape == (8,)
    network = {name.removeprefix("denoiser.net.") for name in checkpoint["state_dict"] if "denoiser" in name}
    for averaged in checkpoint["callbacks"]["lightning_diff.EMA"]["averages"].values():
        assert averaged.keys() <= network
    assert load_file(folder / "model.safetensors").keys() <= network


def test_the_reported_loss_is_unweighted_and_under_the_base_law(train):
    """An untrained network whose loss is watched under two laws: the same number, up to which levels were drawn."""
    options = ["data={_target_: lightning_diff.data.Toy, n: 4096, batch_size: 1024}", "trainer.max_steps=6"]
    options.append("model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.0}")
    law = "model.noise={_target_: lightning_diff.noise.AdaptiveNoise, base: {_target_: lightning_diff.noise.LogNormal}"
    reported = {}
    for name, more in {
        "plain": [],
        "adaptive": [law + ", warmup: 0, refresh: 1}", "model.weighting={_target_: lightning_diff.weighting.MinSNR}"],
    }.items():
        rows = read(train(name, *options, *more) / "metrics.csv")
        reported[name] = [float(row["value"]) for row in rows if row["metric"] == "train/unweighted_loss"]
    assert len(reported["plain"]) == 6
    means = {name: sum(losses) / 6 for name, losses in reported.items()}
    assert means["adaptive"] == pytest.approx(means["plain"], rel=0.02)  # of 6,144 losses each
    assert reported["adaptive"][1:] != reported["plain"][1:]
