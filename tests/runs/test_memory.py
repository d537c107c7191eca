"""What a dry run says of memory is what training then takes."""

import json
import re
from functools import partial

import pytest
import torch
from PIL import Image
from torch import nn

from lightning_diff import DiffusionModule, nets, weighting
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules.sharding import networks
from lightning_diff.nets.blocks import blocks
from lightning_diff.objectives import denoising_loss
from lightning_diff.runs import memory, recipe
from lightning_diff.runs.describe import describe

OPTIMIZERS = {
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "fused": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "amsgrad": partial(torch.optim.Adam, lr=1e-3, amsgrad=True),
    "sgd": partial(torch.optim.SGD, lr=1e-3),
    "momentum": partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
}


def module(optimizer="adam", net=None):
    net = nets.UNet((1, 8, 8), 3, channels=16, channel_mult=[1, 2], num_blocks=1) if net is None else net
    return DiffusionModule(net, num_classes=3, optimizer=OPTIMIZERS[optimizer], weighting=weighting.LearnedVariance(7))


def on_meta(make):
    with torch.device("meta"):
        return make()


def size(tensors) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_gradients_and_the_optimisers_state_are_counted_exactly(optimizer):
    trained = module(optimizer)
    optim = trained.make_optimizer(trained.parameters())
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    optim.step()
    estimated = memory.estimate(on_meta(lambda: module(optimizer)), (1, 8, 8), 4, averages=2)
    assert estimated.weights == size([*trained.parameters(), *trained.buffers()])
    assert estimated.gradients == size(parameter.grad for parameter in trained.parameters())
    assert estimated.optimizer == size(
        value for state in optim.state.values() for value in state.values() if torch.is_tensor(value)
    )
    assert estimated.averages == 2 * size(trained.denoiser.net.parameters())
    assert estimated.exchanged == 0
    assert estimated.total == sum(estimated)


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_shards_are_counted_by_rows(processes):
    """The first process's, which torch's own chunks give."""
    whole = module()
    rows = {name: value.chunk(processes)[0] for name, value in whole.named_parameters()}
    estimated = memory.estimate(on_meta(module), (1, 8, 8), 4, processes=processes, is_sharded=True, averages=1)
    assert estimated.weights == size(rows.values()) + size(whole.buffers())
    assert estimated.gradients == size(rows.values())
    assert estimated.optimizer == 2 * size(rows.values()) + 4 * len(
        rows
    )  # two moments, and a count of steps in float32
    assert estimated.averages == size(value for name, value in rows.items() if name.startswith("denoiser."))


def measured(trained, images: int, tmp_path) -> int:
    """Peak of the bytes that torch's allocator holds in a forward and a backward pass, of weights' gradients none freed."""
    x, noise, label = torch.randn(images, 1, 8, 8), torch.randn(images, 1, 8, 8), torch.zeros(images, dtype=torch.int64)
    with torch.profiler.profile(profile_memory=True) as profile:
        denoising_loss(trained.denoiser, x, torch.ones(images), noise, label).mean().backward()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    steps = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    now = most = 0
    for _, change in steps:
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_the_allocator_saw(tmp_path, checkpointing):
    def net():
        return nets.DiT((1, 8, 8), 3, patch_size=1, width=32, depth=4, heads=2, checkpointing=checkpointing)

    estimated = memory.estimate(on_meta(lambda: module(net=net())), (1, 8, 8), 64)
    peak = measured(module(net=net()), 64, tmp_path)
    # The peak may come before the gradients or among them.
    assert 0.95 * estimated.activations < peak < 1.05 * (estimated.activations + estimated.gradients)


def test_checkpointing_leaves_the_inputs_of_blocks_and_one_blocks_activations():
    def estimated(depth, checkpointing):
        net = partial(nets.DiT, (1, 8, 8), patch_size=1, width=32, depth=depth, heads=2, checkpointing=checkpointing)
        return memory.estimate(on_meta(lambda: DiffusionModule(net())), (1, 8, 8), 64).activations

    kept = estimated(6, True) - estimated(3, True)
    assert kept == 3 * (64 * 64 * 32 * 4)  # three blocks' inputs
    assert estimated(6, False) - estimated(3, False) > 10 * kept


def test_gathered_blocks_are_those_that_are_used_at_once():
    net = partial(nets.MLP, (2,), width=32, depth=3)
    estimated = memory.estimate(on_meta(lambda: DiffusionModule(net())), (2,), 4, processes=2, is_sharded=True)
    real = DiffusionModule(net())
    (network,) = networks(real)
    parts = [size(block.parameters()) for block in blocks(network)]
    assert len(parts) == 3
    assert estimated.exchanged == size(network.parameters()) - sum(parts) + 3 * max(parts)


@pytest.mark.whole
def test_the_large_recipe_is_told_without_its_data_and_without_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    estimated = describe(recipe.load("imagenet64_dit_1b"), "imagenet64_dit_1b")
    assert "# imagenet64_dit_1b: 1,537,535,920 parameters" in estimated
    assert "the recipe's own facts" in estimated
    rows = {name: float(value) for name, value in re.findall(r"^#   (\S.*?)  +([\d.]+)$", estimated, re.M)}
    total, inputs_of_blocks = rows.pop("total"), 36 * 128 * 256 * 1536 * 4 / 1e9  # of 128 images with 256 tokens
    assert total == pytest.approx(sum(rows.values()), abs=0.03)
    assert inputs_of_blocks < rows.pop("activations of 128 images (estimate)") < 2 * inputs_of_blocks
    assert (
        rows.pop("exchange with other processes") < 12 * 1.5375 / 36 + 0.1
    )  # 2 + 2 + 2 bytes, and 4, for a block's weights
    per_weight = {"weights": 4, "gradients": 4, "optimiser's state": 8, "averages": 4}
    assert rows == pytest.approx({name: 1.5375 * size / 8 for name, size in per_weight.items()}, abs=0.006)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_without_facts_needs_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"folder or zip.*model.net.shape, model.net.num_classes .*model.sigma_data"):
        describe(recipe.load("cifar10_edm"), "cifar10_edm")


def test_data_that_are_here_and_wrong_are_not_to_be_described_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for size in (8, 9):
        Image.new("L", (size, size)).save(tmp_path / "pictures" / f"{size}.png")
    with pytest.raises(UserError) as error:
        describe(recipe.load("cifar10_edm", ["data.path=pictures"]), "cifar10_edm")
    assert "model.net.shape" not in str(error.value)


class Looking(nn.Module):
    """A network that looks at values while it is being built, or while it runs."""

    def __init__(self, shape, when="built"):
        super().__init__()
        self.layer, self.when = nn.Linear(shape[0], shape[0]), when
        if when == "built":
            assert float(self.layer.weight.sum()) < 1e3

    def forward(self, x, c_noise, label=None):
        return self.layer(x) if self.when == "built" or float(x.sum()) < 1e9 else x


@pytest.mark.parametrize(("when", "said"), [("built", "#   total"), ("run", "# memory: cannot be estimated")])
def test_a_network_that_looks_at_values_is_told_as_far_as_it_can_be(tmp_path, monkeypatch, when, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "looking.yaml"
    path.write_text(
        f"model: {{_target_: lightning_diff.DiffusionModule, net: {{_target_: {__name__}.Looking, when: {when}}}}}\n"
        "data: {_target_: lightning_diff.data.Toy, n: 32, batch_size: 8}\n"
        "trainer: {accelerator: cpu, max_steps: 1}\n"
    )
    assert said in describe(recipe.load(path), path)
