"""A compiled training step: one graph for each kind of block, made at the first step; nothing is kept of what a replay returns."""

from pathlib import Path

import pytest
import torch
from compilers import COUNTING, REPLAYING, Graphs, fresh, graph_breaks
from safetensors.torch import load_file
from torch import distributed
from torch.utils._pytree import tree_flatten_with_path

from lightning_diff.artifacts import checkpoints
from lightning_diff.modules import Compile
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

RECIPE = """
seed: 3
model:
  _target_: lightning_diff.DiffusionModule
  net: {}
  condition_dropout: 0.1
  optimizer: {{_target_: torch.optim.Adam, _partial_: true, lr: 1.0e-3}}
  learning_rate: {{_target_: lightning_diff.learning_rate.Constant, warmup: 200}}
data: {{_target_: lightning_diff.data.Digits, batch_size: 16{}}}
callbacks:
  - {{_target_: lightning_diff.callbacks.EMA}}
  - {{_target_: lightning_diff.callbacks.NoiseLevels, bins: 4}}
  - {{_target_: compilers.Graphs}}
trainer: {{accelerator: cpu, max_steps: 20, log_every_n_steps: 5, gradient_clip_val: 1.0}}
"""
UNET = "{_target_: lightning_diff.nets.UNet, channels: 8, channel_mult: [1, 2], num_blocks: 1, attention: [8], dropout: 0.1"
DIT = "{_target_: lightning_diff.nets.DiT, width: 16, depth: 3, heads: 2, patch_size: 4, dropout: 0.1"
AUGMENT = ", augment: {_target_: lightning_diff.data.Augment, probability: 0.5}"
EDM2 = (
    "{_target_: lightning_diff.nets.EDM2, channels: 8, channel_mult: [1, 1], num_blocks: 1, attention: [4], head_width: 4, "
    "dropout: 0.1}"
)
NETS = {  # the network, what the data add, and how many kinds of blocks it has
    "unet": (f"{UNET}}}", AUGMENT, 8),
    "unet edm2": (f"{UNET}, norm: adaptive, qk_norm: true, embedding: fourier}}", "", 8),
    "edm2": (EDM2, "", 8),
    "dit": (f"{DIT}}}", AUGMENT, 1),
    "dit edm2": (f"{DIT}, norm: double, qk_norm: true, embedding: fourier}}", "", 1),
    "dit checkpointed": (f"{DIT}, checkpointing: true}}", "", 1),
    "mlp": ("{_target_: lightning_diff.nets.MLP, width: 16, depth: 3, dropout: 0.1}", "", 1),
}
STUDENT = [
    "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 200, net: {dropout: 0.1}}",
]

pytestmark = [
    pytest.mark.whole,  # torch's own, of which it shows nobody the first
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]

DRAWN = (
    "callbacks=[{_target_: lightning_diff.callbacks.EMA}, {_target_: lightning_diff.callbacks.NoiseLevels, bins: 4}, "
    "{_target_: lightning_diff.callbacks.SampleGrid, every: 32, rows: 2, columns: 3, steps: 2}, "
    "{_target_: lightning_diff.callbacks.Evaluate, every: 1000, n: 70, batch: 64, steps: 2, feature: pixels}]"
)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """trained(name, net, *overrides, backend=None, **how): the run's newest checkpoint; the backend is one of `compilers`."""
    monkeypatch.chdir(tmp_path)

    def trained(name, net, *overrides, backend=None, **how):
        path = Path(f"{name}.yaml")
        path.write_text(RECIPE.format(*NETS[net][:2]))
        if backend is not None:
            kind = {"_target_": "lightning_diff.modules.Compile", "fullgraph": True, "backend": backend} | how
            overrides += (f"model.compile={kind}",)
        monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", REPLAYING.begin_step)
        REPLAYING.handed_out.clear()
        with fresh():
            run.train(recipe.load(path, overrides), path)
            assert not graph_breaks()
        newest = checkpoints.newest(Path("runs") / name / "checkpoints")
        return torch.load(newest / "meta.pt" if newest.is_dir() else newest, weights_only=True)

    return trained


def differences(one, other):
    """Names of the weights, averages and optimiser's state in which two checkpoints are not the same bit for bit."""
    own, others = (
        {str(path): leaf for path, leaf in tree_flatten_with_path(state)[0] if isinstance(leaf, torch.Tensor)}
        for state in (one, other)
    )
    assert own.keys() == others.keys()
    return [name for name, value in own.items() if not torch.equal(value, others[name])]


@pytest.mark.parametrize(
    ("net", "kinds", "accumulation", "region"),
    [
        ("unet", 10, 2, "blocks"),  # of 12 blocks
        pytest.param("unet edm2", 1, 1, "network", marks=pytest.mark.slow),
        ("edm2", 8, 2, "blocks"),  # of 10 blocks
        ("dit", 1, 2, "blocks"),
        ("dit edm2", 1, 1, "blocks"),
        ("dit checkpointed", 1, 1, "blocks"),
        ("mlp", 1, 1, "blocks"),
    ],
)
def test_all_graphs_are_there_after_the_first_micro_batch(trained, net, kinds, accumulation, region):
    """With dropout, labels dropped or not, augmentation, a learning rate that changes, clipping, averages; 20 steps."""
    trained("run", net, f"trainer.accumulate_grad_batches={accumulation}", backend="counting", region=region)
    assert len(Graphs.after) == 20 * accumulation
    assert set(Graphs.after) == {1 + kinds}  # the first is of what was compiled to see whether anything can be


@pytest.mark.parametrize("region", ["blocks", pytest.param("network", marks=pytest.mark.slow)])
def test_one_more_graph_serves_pictures_and_figures_whatever_their_number(trained, region):
    trained("run", "dit", "trainer.max_steps=3", DRAWN, backend="counting", region=region)
    assert len(COUNTING.graphs) == 3


STUDENT = (
    "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 200, net: {dropout: 0.1, guided: true}}",
)


@pytest.mark.parametrize(
    ("more", "accumulation", "graphs"),
    [
        (["model.objective=training"], 2, 2),
        (["model.guidance=[1,2]"], 1, 2),
        (["model.derivative=two_pass", "model.objective=training"], 1, 2),
        (["model.objective=regression", "model.guidance=[1,2]", "model.nodes=3"], 2, 3),  # the teacher's and its own
        (["model.derivative=central"], 1, 4),  # of a block: the teacher's, without gradients, and with them
    ],
    ids=["training", "guided distillation", "two passes", "regression", "central"],
)
def test_a_consistency_step_is_one_graph_derivative_included(trained, more, accumulation, graphs):
    trained("teacher", "dit", "trainer.max_steps=1")
    more = [*STUDENT, *more, f"trainer.accumulate_grad_batches={accumulation}"]
    trained("student", "dit", *more, backend="counting")
    assert len(Graphs.after) == 20 * accumulation
    assert set(Graphs.after) == {graphs}


def test_adapters_of_one_shape_share_a_graph(trained):
    trained("start", "dit", "trainer.max_steps=1")
    lora = "{_target_: lightning_diff.nets.lora.LoRA, rank: 2}"
    model = f"model={{_target_: lightning_diff.DiffusionModule, start: runs/start, lora: {lora}}}"
    trained("adapted", "dit", model, backend="counting")
    assert set(Graphs.after) == {2}


@pytest.mark.parametrize("region", ["network", pytest.param("blocks", marks=pytest.mark.slow)])
def test_nothing_is_kept_of_what_a_replayed_graph_returned(trained, region):
    """With accumulation, averages, pictures on the way; without replays the same, bit for bit."""
    more = ["trainer.accumulate_grad_batches=2", "trainer.max_steps=3", DRAWN]
    plain = trained("plain", "mlp", *more, backend="aot_eager", region=region)
    replayed = trained("replayed", "mlp", *more, backend="replaying", mode="reduce-overhead", region=region)
    assert REPLAYING.steps > 6
    assert not differences(plain, replayed)


@pytest.mark.parametrize("objective", ["training", "regression", pytest.param("distillation", marks=pytest.mark.slow)])
def test_nothing_is_kept_of_a_replayed_consistency_step(trained, objective):
    trained("teacher", "mlp", "trainer.max_steps=1")
    more = [*STUDENT, f"model.objective={objective}", "trainer.accumulate_grad_batches=2", "trainer.max_steps=3", DRAWN]
    plain = trained("plain", "mlp", *more, backend="aot_eager")
    replayed = trained("replayed", "mlp", *more, backend="replaying", mode="reduce-overhead")
    assert not differences(plain, replayed)


def critic(loss: str) -> str:
    """Of 16 images a step, from step 2 on: critic, student, and so on; samples of one step or two."""
    return f"model.critic={{_target_: lightning_diff.modules.Critic, loss: {loss}, every: 2, start: 16, levels: [0.5]}}"


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        ("dmd", []),
        ("sid", []),
        ("dmd", ["model.derivative=two_pass"]),
        ("dmd", ["model.objective=regression", "model.nodes=3"]),
    ],
)
def test_nothing_is_kept_of_a_replayed_step_beside_a_critic(trained, loss, more):
    trained("teacher", "mlp", "trainer.max_steps=1")
    more = [*STUDENT, *more, critic(loss), "trainer.max_steps=6", DRAWN]
    plain = trained("plain", "mlp", *more, backend="aot_eager")
    replayed = trained("replayed", "mlp", *more, backend="replaying", mode="reduce-overhead")
    assert not differences(plain, replayed)


def test_a_critic_and_its_student_bring_no_graph_after_their_first_steps(trained):
    trained("teacher", "dit", "trainer.max_steps=1")
    trained("student", "dit", *STUDENT, critic("dmd"), backend="counting")
    assert len(Graphs.after) == 20
    assert len(set(Graphs.after[6:])) == 1


ALIGN = (
    "model={_target_: lightning_diff.AlignmentModule, model: runs/teacher, reward: {_target_: lightning_diff.rewards.Ink}, "
    "plan: {_target_: lightning_diff.rollouts.Plan, prompts: 4, pool: 4, keep: 2, steps: 2, preview_steps: 2, precision: bf16}, "
    "loss: {_target_: lightning_diff.rollouts.RewardLoss, levels: 2, options: {kl: 1.0}}}"
)


@pytest.mark.slow
def test_nothing_is_kept_of_the_networks_that_reward_fine_tuning_calls(trained):
    """The trained one, the old policy and the reference of a step; those that sample, in between."""
    trained("teacher", "mlp", "trainer.max_steps=1")
    more = [ALIGN, "trainer.max_steps=3", "trainer.accumulate_grad_batches=2", "callbacks=[]"]
    plain = trained("plain", "mlp", *more, backend="aot_eager", region="network")
    replayed = trained("replayed", "mlp", *more, backend="replaying", mode="reduce-overhead", region="network")
    assert not differences(plain, replayed)


TWO_AVERAGES = (
    "callbacks=[{_target_: compilers.Graphs}, {_target_: lightning_diff.callbacks.EMA, compile: %s, profiles: {"
    "short: {_target_: lightning_diff.ema.HalfLife, images: 64, ramp_up: null}, "
    "long: {_target_: lightning_diff.ema.PowerFunction, sigma_rel: 0.1}}}]"
)


def test_a_compiled_update_of_averages_and_a_compiled_optimizer_are_those_that_are_not(trained, monkeypatch):
    """One graph each for all steps, whatever the rates; the names and kinds of everything in the checkpoint stay."""
    plain = trained("plain", "mlp", TWO_AVERAGES % "false")
    monkeypatch.setattr(Compile, "function", lambda self, fn: torch.compile(fn, backend="counting", fullgraph=True))
    monkeypatch.setattr(Compile, "serves", lambda *_: True)
    both = trained("both", "mlp", TWO_AVERAGES % "true", backend="counting", optimizer=True)
    assert len(Graphs.after) == 20
    assert len(COUNTING.graphs) == 3  # a block, the optimiser, the averages
    assert Graphs.after[1] == Graphs.after[-1]  # the averages are first updated after the first step
    assert close(plain, both)


def test_a_run_resumes_from_one_that_was_compiled_and_the_reverse(trained):
    whole = trained("whole", "dit")
    compiled = {"backend": "counting", "optimizer": True}
    for name, first, second in (("from_compiled", compiled, {}), ("to_compiled", {}, compiled)):
        trained(name, "dit", "trainer.max_steps=10", **first)
        assert close(whole, trained(name, "dit", **second))


def close(one, other):
    """Whether two checkpoints have the same names, kinds of values, and, up to the order of summation, values."""
    own, others = ({str(path): leaf for path, leaf in tree_flatten_with_path(state)[0]} for state in (one, other))
    own, others = (
        {k: v for k, v in each.items() if isinstance(v, torch.Tensor) or "param_groups" in k} for each in (own, others)
    )
    assert {name: type(value) for name, value in own.items()} == {name: type(value) for name, value in others.items()}
    for name, value in own.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(
                value, others[name], rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
            )
    return True


def test_shards_are_compiled_block_by_block(trained):
    """What gathers a block's weights is no part of its graph."""
    try:
        trained("plain", "dit")
        trained("sharded", "dit", "trainer.strategy=model_parallel", backend="counting", optimizer=True)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    assert set(Graphs.after) == {3}  # the second is the optimiser's
    own, other = (load_file(Path("runs") / name / "model.safetensors") for name in ("plain", "sharded"))
    torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)
